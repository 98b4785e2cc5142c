"""The encoder-decoder of Vaswani et al. 2017 (https://arxiv.org/abs/1706.03762), from the blocks of core_jax.

Axes: B batch, S source tokens, T target tokens, D width, V vocabulary.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from bert_jax.gpt import Tokens, counted_positions
from bert_jax.translation_config import TranslationConfig
from core_jax.dropout import drop_units
from core_jax.embeddings import Embedding
from core_jax.grid_positions import sincos_waves
from core_jax.key_value_cache import KeyValueCache
from core_jax.losses import cross_entropy, objective
from core_jax.metrics import accuracy
from core_jax.multihead_attention import Others
from core_jax.sharding import BATCH_AXES, constrain
from core_jax.train import Loss, Metrics
from core_jax.transformer import Stack


class Translator(nn.Module):
    """An encoder of the source, and a decoder that writes the target and looks at what the encoder read.

    Both embed tokens by one table, by which the output is multiplied too. `read` and `decode` are those of `Gpt`, so
    that `prefill` and `decode_step` serve it.
    """

    config: TranslationConfig

    def setup(self):
        """Makes the parts."""
        config = self.config
        self.token = Embedding(config, config.vocab_size, row_axis="tensor")
        self.encoder = Stack(dataclasses.replace(config, depth=config.encoder_depth))
        self.decoder = Stack(dataclasses.replace(config, causal=True))
        self.bias = self.param("bias", nn.initializers.zeros_init(), (config.vocab_size,))

    def __call__(
        self,
        sources: Int[Array, "B S"],
        source_segments: Int[Array, "B S"],
        tokens: Tokens,
        segments: Tokens,
        *,
        train: bool = False,
    ) -> Float[Array, "B T V"]:
        """The logits of what follows each token of the target.

        Args:
          sources: ids of pieces, the one that ends a sentence included.
          source_segments: 1 at these, 0 at padding.
          tokens: of the target so far: the one that starts it, then those before.
          segments: 1 at these, 0 at padding.
          train: whether dropout is on (it needs the "dropout" randomness).
        """
        others = self.encode(sources, source_segments, train=train)
        hidden: Any = self.read(tokens, segments, train=train, others=others)  # without a cache, states alone
        return self.decode(hidden)

    def encode(self, sources: Int[Array, "B S"], segments: Int[Array, "B S"], *, train: bool = False) -> Others:
        """What the decoder looks at; `segments` are 1 at tokens, 0 at padding."""
        hidden = self._embed(sources, counted_positions(sources, segments, None), train)
        return Others(self.encoder(hidden, segments, train=train), segments)

    def read(
        self,
        tokens: Tokens,
        segments: Tokens | None = None,
        positions: Tokens | None = None,
        *,
        train: bool = False,
        cache: KeyValueCache | None = None,
        others: Others | None = None,
    ) -> Float[Array, "B T D"] | tuple[Float[Array, "B T D"], KeyValueCache]:
        """The hidden states of the decoder; all as for `Gpt.read`."""
        if positions is None:
            positions = counted_positions(tokens, segments, cache)
        decoder: Any = self.decoder
        return decoder(self._embed(tokens, positions, train), segments, train=train, cache=cache, others=others)

    def decode(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """The product with every token's embedding, and a bias."""
        logits = self.token.attend(hidden)
        return logits + self.bias.astype(logits.dtype).reshape((1,) * (logits.ndim - 1) + (-1,))

    def _embed(self, tokens, positions, train):
        config = self.config
        hidden = self.token(tokens)
        if config.scale_embedding:
            hidden = hidden * np.sqrt(config.width).astype(hidden.dtype)
        # Their section 3.5, but for the order: all sines come first.
        waves = sincos_waves(config.maximum_positions, config.width, endpoint=False)
        hidden = hidden + jnp.asarray(waves, hidden.dtype)[positions]
        if train and config.dropout:
            hidden = drop_units(hidden, self.make_rng("dropout"), config.dropout)
        return constrain(hidden, BATCH_AXES, None, None)


def initial_params(model: Translator) -> Callable[[Key[Array, ""]], PyTree]:
    """key -> fresh parameters of a model."""

    def init(key: Key[Array, ""]) -> PyTree:
        tokens = jnp.ones((1, min(8, model.config.maximum_positions)), jnp.int32)
        return model.init(key, tokens, tokens, tokens, tokens)["params"]

    return init


def translation_loss(model: Translator, *, train: bool, smoothing: float = 0.0) -> Loss:
    """Prediction of each next token of the target.

    Args:
      model: whose parameters are trained.
      train: whether dropout is on.
      smoothing: share of each label that is spread over all pieces, in the scalar alone.
    Returns:
      loss(params, batch, key); the scalar is the mean over all target tokens. A batch has sources, source_segments,
      tokens and segments as the model takes them, the token that follows each as `labels`, and what that counts as
      `weights["next"]`.
    Source: Vaswani et al. 2017, section 5.4.
    """

    def loss(params: PyTree, batch: dict[str, Any], key: Key[Array, ""]) -> tuple[Float[Array, ""], Metrics]:
        inputs = (batch[name] for name in ("sources", "source_segments", "tokens", "segments"))
        logits: Any = model.apply({"params": params}, *inputs, train=train, rngs={"dropout": key})
        weights, sources = batch["weights"]["next"], batch["source_segments"]
        useful = jnp.sum(weights > 0, dtype=jnp.float32) + jnp.sum(sources > 0, dtype=jnp.float32)
        metrics = {
            "next_loss": cross_entropy(logits, batch["labels"], weights),
            "next_accuracy": accuracy(logits, batch["labels"], weights),
            "useful_positions": (useful, jnp.float32(sources.size + weights.size)),
        }
        smoothed = cross_entropy(logits, batch["labels"], weights, smoothing=smoothing)
        return objective({"next": smoothed}, batch.get("totals")), metrics

    return loss
