"""What turns hidden states into answers.

Axes: B batch, T positions, P predicted positions, S examples of a packed row, D width, V vocabulary, C classes.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from core_jax.config import TransformerConfig
from core_jax.transformer import CrossAttention, Dense, Mlp, dense, gelu, layer_norm


def gather_positions(hidden: Float[Array, "B T D"], positions: Int[Array, "B P"]) -> Float[Array, "B P D"]:
    """The hidden states at the given positions of each row."""
    return jnp.take_along_axis(hidden, positions[:, :, None], axis=1)


class Pooler(nn.Module):
    """The first position of an example through a linear layer and tanh. Source: Devlin et al. 2018."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B T D"], positions: Int[Array, "B S"] | None = None
    ) -> Float[Array, "B *S D"]:
        """One vector for each row, or, with the first `positions` of the examples packed into it, one for each."""
        first = hidden[:, 0] if positions is None else gather_positions(hidden, positions)
        return jnp.tanh(dense(self.config, self.config.width, "dense")(first))


class TokenPredictionHead(nn.Module):
    """Transform (linear, GELU, LayerNorm), then the tied decoder with a bias of its own. Source: Devlin et al. 2018."""

    config: TransformerConfig
    vocab_size: int

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B P D"], decode: Callable[[Float[Array, "B P D"]], Float[Array, "B P V"]]
    ) -> Float[Array, "B P V"]:
        """Logits over the vocabulary; `decode` multiplies with the token embeddings."""
        hidden = gelu(self.config, dense(self.config, self.config.width, "transform")(hidden))
        logits = decode(layer_norm(self.config, "norm")(hidden))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.vocab_size,))
        return logits + bias.astype(logits.dtype)[None, None]


class Classifier(nn.Module):
    """One linear layer."""

    config: TransformerConfig
    classes: int
    zero: bool = False  # whether its kernel is zero at first
    bias: float = 0.0  # at first

    @nn.compact
    def __call__(self, pooled: Float[Array, "*B D"]) -> Float[Array, "*B C"]:
        """Logits over the classes."""
        init = nn.initializers.zeros_init() if self.zero else None
        return Dense(self.config, self.classes, init, self.bias, name="dense")(pooled)


class AttentionPooler(nn.Module):
    """One learnt query that attends to all positions, then an MLP. Source: Zhai et al. 2021, section 3.2 ("MAP"),
    https://arxiv.org/abs/2106.04560"""

    config: TransformerConfig

    @nn.compact
    def __call__(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B D"]:
        """One vector for each row."""
        config = self.config
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, config.width))
        query = jnp.broadcast_to(probe, (hidden.shape[0], 1, config.width)).astype(hidden.dtype)
        pooled = CrossAttention(config, name="attention")(query, hidden)
        return (pooled + Mlp(config, name="mlp")(layer_norm(config, "norm")(pooled)))[:, 0]
