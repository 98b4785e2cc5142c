"""Multi-head attention as modules: among the positions of a row, also with a cache of those before, and to others.

Axes: B batch, T positions, S positions that are attended to, D width, H heads, K width of a head.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from core_jax.attention import Implementation, attend, attend_joint, attention_weights, choose, visible
from core_jax.config import TransformerConfig
from core_jax.key_value_cache import KeysValues, LayerCache, attend_cached, attend_kept_others, keep_others, store
from core_jax.layers import compute_dtype, initializer, layer_norm, linear
from core_jax.splash_attention import ATTENTION_NAME

Hidden = Float[Array, "B T D"]
Segments = Int[Array, "B T"]
Bias = Float[Array, "#B H T S"] | None


class HeadProjection(nn.Module):
    """The parameters of a linear layer from the width into heads, or from heads back to the width."""

    config: TransformerConfig
    merges: bool = False  # from heads back

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "..."], Float[Array, "..."] | None]:
        """Kernel D H K and bias H K, if there is one; of a merging one H K D and D."""
        config, width = self.config, self.config.width
        heads = (config.heads, config.head_size)
        shape = (*heads, width) if self.merges else (width, *heads)
        flat = (math.prod(heads), width) if self.merges else (width, math.prod(heads))

        def init(key, shape, dtype):  # drawn flat: the same numbers, however many heads
            drawn = initializer(config, ends_branch=self.merges)(key, flat, dtype).reshape(shape)
            unscaled = self.name == "query" and not config.scale_queries
            return drawn * config.head_size**-0.5 if unscaled and config.initializer == "t5" else drawn

        kernel = self.param("kernel", init, shape, jnp.float32)
        if not config.use_bias:
            return kernel.astype(compute_dtype(config)), None
        bias = self.param("bias", nn.initializers.zeros_init(), (width,) if self.merges else heads, jnp.float32)
        return kernel.astype(compute_dtype(config)), bias.astype(compute_dtype(config))


def _is_plain(config):
    """Whether what the projections give is what attention takes."""
    return config.use_bias and config.scale_queries and not config.qk_norm


def unscaled(config: TransformerConfig, query: Float[Array, "B T H K"]) -> Float[Array, "B T H K"]:
    """Queries that come out as they are, where a model does not scale: all implementations divide by the root of K."""
    return query if config.scale_queries else query * jnp.asarray(config.head_size**0.5, query.dtype)


class Attention(nn.Module):
    """Multi-head self-attention."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self, x: Hidden, segments: Segments | None, train: bool, cache: LayerCache | None = None, bias: Bias = None
    ) -> tuple[Hidden, KeysValues | None]:
        """Mixes the positions of each segment.

        Args:
          x: hidden states.
          segments: tokens attend to those with the same number; padding has 0.
          train: whether dropout is on.
          cache: of the tokens before; only causal attention can have one.
          bias: added to the logits; S are the places of the cache, where there is one.
        Returns:
          The mixed states, and with a cache all keys and values, the new ones included.
        """
        config, shape = self.config, (*x.shape[:2], self.config.heads, -1)
        x = x.astype(compute_dtype(config))
        drops = train and config.attention_dropout > 0
        dropout: dict[str, Any] = {
            "dropout_rate": config.attention_dropout,
            "dropout_key": self.make_rng("dropout") if drops else None,
        }
        projections = [HeadProjection(config, name=name)() for name in ("query", "key", "value")]
        sizes = x.shape[1], config.head_size
        implementation = choose(config.attention, *sizes, x.dtype, drops=drops, biased=bias is not None)
        is_asked, kept = self.is_mutable_collection("intermediates"), None  # who looks at whom
        # one product for all: x is read once
        if implementation == "fused" and _is_plain(config) and not is_asked and cache is None:
            joined = (jnp.stack(parts, axis=-2) for parts in zip(*projections, strict=True))  # D H 3 K, H 3 K
            joint = linear(x, *joined).reshape(shape)
            mixed = attend_joint(joint, segments, causal=config.causal, **dropout)
            # Without this the compiler for TPU copies the kernel's output to another layout, twice.
            mixed = jax.lax.optimization_barrier(mixed)
        else:
            query, key, value = (linear(x, *parts).reshape(shape) for parts in projections)
            if config.qk_norm:
                query, key = layer_norm(config, "query_norm")(query), layer_norm(config, "key_norm")(key)
            query = unscaled(config, query)
            if is_asked:
                mask = visible(x.shape[1], x.shape[1], segments, segments, config.causal)
                self.sow("intermediates", "attention_weights", attention_weights(query, key, mask, bias))
            if cache is None or cache.capacity == x.shape[1]:  # new tokens that fill a cache see no others
                both: dict[str, Any] = {"query_segments": segments, "key_segments": segments, "causal": config.causal}
                mixed = attend(query, key, value, bias=bias, **both, **dropout, implementation=implementation)
                kept = None if cache is None else store(cache, key, value)
            else:
                mixed, kept = attend_cached(query, key, value, cache, bias)
        mixed = checkpoint_name(mixed.reshape(*x.shape[:2], -1), ATTENTION_NAME)
        return linear(mixed, *HeadProjection(config, merges=True, name="out")()), kept


class Others(NamedTuple):
    """What some positions look at besides themselves, such as a decoder at what its encoder read."""

    hidden: Float[Array, "B S D"]
    segments: Int[Array, "B S"] | None = None  # a position sees those of its own number; by default all


class CrossAttention(nn.Module):
    """Multi-head attention of some positions to others."""

    config: TransformerConfig
    implementation: Implementation = "auto"

    @nn.compact
    def __call__(
        self,
        x: Hidden,
        others: Others | None,
        segments: Segments | None = None,
        train: bool = False,
        cache: LayerCache | None = None,
    ) -> tuple[Hidden, LayerCache | None]:
        """A mean of the others for each position.

        Args:
          x: states of the positions that look.
          others: what they look at; without, those that the cache has kept.
          segments: of `x`, where the others have some.
          train: whether dropout is on.
          cache: of the layer.
        Returns:
          The means, and the cache with the keys and values of the others in it.
        """
        config, dtype = self.config, compute_dtype(self.config)

        def project(y: Float[Array, "B S D"], name: str) -> Float[Array, "B S H K"]:
            return linear(y, *HeadProjection(config, name=name)()).reshape(*y.shape[:2], config.heads, -1)

        query = unscaled(config, project(x.astype(dtype), "query"))
        if others is None:
            assert cache is not None, "there is nothing to look at"
            mixed = attend_kept_others(query, segments, cache)
        else:
            key, value = (project(others.hidden.astype(dtype), name) for name in ("key", "value"))
            cache = None if cache is None else keep_others(cache, key, value)
            asking = None if others.segments is None else segments
            if self.is_mutable_collection("intermediates"):  # who looks at whom
                mask = visible(x.shape[1], key.shape[1], asking, others.segments, causal=False)
                self.sow("intermediates", "attention_weights", attention_weights(query, key, mask))
            drops = train and config.attention_dropout > 0
            mixed = attend(
                query,
                key,
                value,
                query_segments=asking,
                key_segments=others.segments,
                dropout_rate=config.attention_dropout,
                dropout_key=self.make_rng("dropout") if drops else None,
                implementation=self.implementation,
            )
        return linear(mixed.reshape(*x.shape[:2], -1), *HeadProjection(config, merges=True, name="out")()), cache
