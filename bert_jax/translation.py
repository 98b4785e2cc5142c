"""The encoder-decoder of Vaswani et al. 2017 (https://arxiv.org/abs/1706.03762), from the blocks of core_jax.

With other values of its config it is a T5: Raffel et al. 2020, https://arxiv.org/abs/1910.10683, as published there and
in the later version "1.1".

Axes: B batch, S source tokens, T target tokens, D width, V vocabulary.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from bert_jax.gpt import Tokens, counted_positions
from bert_jax.translation_config import TranslationConfig
from core_jax.dropout import drop_units
from core_jax.embeddings import Embedding, TextEmbeddings
from core_jax.flops import TRAINING, stack_flops
from core_jax.grid_positions import sincos_waves
from core_jax.key_value_cache import KeyValueCache
from core_jax.layers import layer_norm
from core_jax.losses import cross_entropy, objective
from core_jax.metrics import accuracy
from core_jax.multihead_attention import Others
from core_jax.sharding import BATCH_AXES, constrain
from core_jax.train import Loss, Metrics
from core_jax.transformer import Stack


class TargetEmbeddings(nn.Module):
    """Learnt positions on tokens that another table embeds, then LayerNorm and dropout."""

    config: TranslationConfig

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B T D"], positions: Tokens, *, train: bool = False
    ) -> Float[Array, "B T D"]:
        """Adds the positions to embedded tokens."""
        config = self.config
        hidden = hidden + Embedding(config, config.maximum_positions, name="position")(positions)
        hidden = layer_norm(config, "norm")(hidden)
        if train and config.dropout:
            hidden = drop_units(hidden, self.make_rng("dropout"), config.dropout)
        return constrain(hidden, BATCH_AXES, None, None)


class Translator(nn.Module):
    """An encoder of the source, and a decoder that writes the target and looks at what the encoder read.

    Both embed tokens by one table, by which the output is multiplied too. With learned positions the encoder is that of
    a BERT, and the decoder has its own positions and LayerNorm: BERT2RND of Rothe et al. 2020,
    https://arxiv.org/abs/1907.12461. With relative ones nothing is added to tokens, and each stack has a bias of
    attention; the output may have a table of its own, as in T5 1.1. `read` and `decode` are those of `Gpt`, so
    that `prefill` and `decode_step` serve it.
    """

    config: TranslationConfig

    def setup(self):
        """Makes the parts."""
        config, buckets = self.config, 0
        if config.positions == "learned":
            rows = config.vocab_size, config.maximum_positions, config.type_vocab_size
            self.embeddings = TextEmbeddings(config, *rows)
            self.target_embeddings = TargetEmbeddings(config)
        else:
            self.token = Embedding(config, config.vocab_size, row_axis="tensor")
            buckets = config.relative_buckets if config.positions == "relative" else 0
        self.encoder = Stack(dataclasses.replace(config, depth=config.encoder_depth, relative_buckets=buckets))
        self.decoder = Stack(dataclasses.replace(config, causal=True, relative_buckets=buckets))
        if not config.tied_output:
            self.output_token = Embedding(config, config.vocab_size, row_axis="tensor", is_output=True)
        if config.use_bias:
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
        positions = counted_positions(sources, segments, None)
        if self.config.positions == "learned":
            hidden = self.embeddings(sources, jnp.zeros_like(sources), positions, train=train)
        else:
            hidden = self._embed(sources, positions, train)
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
        """The product with every token's embedding, or with the output's own table, and a bias, if there is one."""
        config = self.config
        if config.scale_output:
            hidden = hidden * np.sqrt(1 / config.width).astype(hidden.dtype)
        table = self.embeddings.token if config.positions == "learned" else self.token
        logits = (table if config.tied_output else self.output_token).attend(hidden)
        if not config.use_bias:
            return logits
        return logits + self.bias.astype(logits.dtype).reshape((1,) * (logits.ndim - 1) + (-1,))

    def _embed(self, tokens, positions, train):
        config = self.config
        learned = config.positions == "learned"
        hidden = (self.embeddings.token if learned else self.token)(tokens)
        if config.scale_embedding:
            hidden = hidden * np.sqrt(config.width).astype(hidden.dtype)
        if learned:
            return self.target_embeddings(hidden, positions, train=train)
        if config.positions == "waves":  # Their section 3.5, but for the order: all sines come first.
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


def batch_shapes(rows: int, length: int) -> dict[str, Any]:
    """Shapes and dtypes of a batch of so many pairs, in rows of so many places."""
    names = ("sources", "source_segments", "tokens", "segments", "labels")
    weights = {"next": jax.ShapeDtypeStruct((rows, length), jnp.float32)}
    return {**dict.fromkeys(names, jax.ShapeDtypeStruct((rows, length), jnp.int32)), "weights": weights}


def step_flops(config: TranslationConfig, rows: int, length: int) -> int:
    """Operations of the matrix products of a step, forward and backward, without remat, on full rows.

    Args:
      config: of the model.
      rows: pairs.
      length: tokens of each sentence.
    """
    width = config.width
    encoder = stack_flops(dataclasses.replace(config, depth=config.encoder_depth), length, length * length)
    decoder = stack_flops(config, length, length * (length + 1) // 2) + 2 * length * width * config.vocab_size
    looked = config.depth * (8 * width**2 * length + 4 * length * length * width)  # at the source
    return TRAINING * rows * int(encoder + decoder + looked)


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
