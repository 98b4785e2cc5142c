"""Learnt biases of attention for how far a key stands from its query, as in T5.

Axes: B batch, T queries, S keys, H heads, N distances.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from core_jax.config import TransformerConfig
from core_jax.key_value_cache import KeyValueCache, counted_places
from core_jax.sharding import BATCH_AXES, constrain


def distance_buckets(
    distances: Int[np.ndarray, "*N"], *, buckets: int, longest: int, causal: bool
) -> Int32[np.ndarray, "*N"]:
    """The bucket of each distance: one for each short distance, then ever wider ones.

    Args:
      distances: places from the query to the key; negative where the key comes first.
      buckets: how many there are; half of them are for keys that come after, unless `causal`.
      longest: distance from which on all are in the last bucket.
      causal: whether all keys that come after are in bucket 0, as nobody looks at them.
    Source: Raffel et al. 2020, section 2.1, https://arxiv.org/abs/1910.10683; the rounding is that of `transformers`.
    """
    after = np.zeros_like(distances, np.int32)
    if not causal:
        buckets //= 2
        after = np.where(distances > 0, buckets, 0)
    far = np.maximum(-distances, 0) if causal else np.abs(distances)
    exact = buckets // 2
    growth = np.log(np.maximum(far, 1).astype(np.float32) / exact) / np.float32(math.log(longest / exact))
    wide = np.minimum(exact + (growth * np.float32(buckets - exact)).astype(np.int32), buckets - 1)
    return (after + np.where(far < exact, far, wide)).astype(np.int32)


class RelativeBias(nn.Module):
    """What is added to the logits of attention in all layers of a stack: a number for each bucket and head."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, length: int, cache: KeyValueCache | None = None) -> Float[Array, "#B H T S"]:
        """The biases of some tokens among themselves, or of those that are new in a cache.

        Segments are runs of neighbours, so that places in the row are as far from each other as places in a segment. In
        a cache padding may stand between a prompt and what follows: there tokens are counted.

        Args:
          length: how many (new) tokens there are, T.
          cache: in which the new tokens have got places; S is its capacity.
        """
        config, places = self.config, length if cache is None else cache.capacity
        init = nn.initializers.normal(config.width**-0.5)  # as in `transformers`
        table = self.param("embedding", init, (config.relative_buckets, config.heads), jnp.float32)
        if cache is None:
            queries = keys = jnp.arange(length)[None]
        else:
            queries, keys = counted_places(cache, length)
        options = {"buckets": config.relative_buckets, "longest": config.relative_distance, "causal": config.causal}
        bucket_of = distance_buckets(np.arange(1 - places, places), **options)
        distances = jnp.clip(keys[:, None, :] - queries[:, :, None], 1 - places, places - 1)
        biases = jnp.take(table, jnp.asarray(bucket_of)[distances + places - 1], axis=0)
        return constrain(jnp.moveaxis(biases, -1, 1), None if cache is None else BATCH_AXES, "tensor", None, None)
