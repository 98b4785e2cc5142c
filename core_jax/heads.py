"""What turns hidden states into answers.

Axes: B batch, T positions, P predicted positions, S examples of a packed row, D width, V vocabulary, C classes.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from core_jax.config import TransformerConfig
from core_jax.layers import Dense, dense, gelu, layer_norm
from core_jax.multihead_attention import CrossAttention, Others
from core_jax.transformer import Mlp


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
    kernel_init: nn.initializers.Initializer | None = None  # by default as every kernel of the model
    bias: float = 0.0  # at first

    @nn.compact
    def __call__(self, pooled: Float[Array, "*B D"]) -> Float[Array, "*B C"]:
        """Logits over the classes."""
        return Dense(self.config, self.classes, self.kernel_init, self.bias, name="dense")(pooled)


class AttentionPooler(nn.Module):
    """One learnt query that attends to all positions, then an MLP. Source: Zhai et al. 2021, section 3.2 ("MAP"),
    https://arxiv.org/abs/2106.04560"""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B T D"], segments: Int[Array, "B T"] | None = None, examples: int = 1
    ) -> Float[Array, "B S D"]:
        """One vector for each row, S = 1; or, where `segments` says which positions are of which of the `examples`
        packed into it (1, 2, ...; others are of none), one for each of them."""
        config = self.config
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, config.width))
        query = jnp.broadcast_to(probe, (len(hidden), examples, config.width)).astype(hidden.dtype)
        asking = None if segments is None else jnp.broadcast_to(segment_numbers(examples)[None], query.shape[:2])
        pooled, _ = CrossAttention(config, "xla", name="attention")(query, Others(hidden, segments), asking)
        return pooled + Mlp(config, name="mlp")(layer_norm(config, "norm")(pooled))


def segment_numbers(examples: int) -> Int[Array, " S"]:
    """The segments of the examples of a packed row: 1, 2, ..."""
    return jnp.arange(1, examples + 1)


def segment_members(segments: Int[Array, "B T"], examples: int) -> Bool[Array, "B S T"]:
    """Which positions of a packed row are of each of its examples."""
    return segments[:, None, :] == segment_numbers(examples)[None, :, None]


def segment_means(hidden: Float[Array, "B T D"], segments: Int[Array, "B T"], examples: int) -> Float[Array, "B S D"]:
    """The mean over the positions of each example of a packed row, in float32; zeros where it has none.

    Args:
      hidden: any float dtype.
      segments: 1, 2, ... in the examples; all other positions are of none.
      examples: how many there may be, S.
    """
    is_of = segment_members(segments, examples)
    sums = jnp.einsum("BST,BTD->BSD", is_of.astype(hidden.dtype), hidden, preferred_element_type=jnp.float32)
    return sums / jnp.maximum(jnp.sum(is_of, axis=2, dtype=jnp.float32), 1)[:, :, None]
