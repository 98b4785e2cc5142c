"""Keys and values of the tokens so far, so that each next token is computed alone.

A cache is a plain tree of arrays, given to a function and returned by it. New tokens of all rows go into the same
places; which of them are real is said by segment ids, so prompts of different lengths may be padded on either side.

Where a model looks at others as well, such as a decoder at what its encoder read, their keys and values are computed
once, when they come, and stay in the cache.

Axes: L layers, B rows, T new tokens, S places (the capacity), O others, H heads, K width of a head, R rows taken.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from core_jax.attention import attention_weights, visible
from core_jax.config import TransformerConfig
from core_jax.sharding import BATCH_AXES, constrain


class KeysValues(NamedTuple):
    """Those of one layer; or of all scanned layers, with an axis of layers in front.

    Fields are Any: shapes and shardings stand there too.
    """

    keys: Any  # Float[Array, "*L B H S K"]
    values: Any  # the same
    other_keys: Any = None  # Float[Array, "*L B H O K"]; None where the layer looks at no others
    other_values: Any = None  # the same


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KeyValueCache:
    """What all layers of a stack keep of the tokens so far."""

    layers: dict[str, KeysValues]  # by block, as the parameters: `block_0`, `block_1`, ... or `blocks`
    segments: Any  # Int[Array, "B S"]: of the token in each place; 0 at padding and where there is none
    filled: Any  # Int[Array, ""]: how many places are taken, the same in all rows
    other_segments: Any = None  # Int[Array, "B O"]; None where all of them are seen, or there are none

    @property
    def capacity(self) -> int:
        """How many places there are, S."""
        return self.segments.shape[1]


class LayerCache(NamedTuple):
    """What one layer gets of a cache when new tokens come."""

    before: KeysValues  # without the new tokens
    first: Int[Array, ""]  # place of the first new token
    visible: Bool[Array, "B 1 T S"]  # which places each new token sees
    other_segments: Int[Array, "B O"] | None = None  # of the others that are in the cache

    @property
    def capacity(self) -> int:
        """How many places there are, S."""
        return self.visible.shape[3]


def empty_cache(config: TransformerConfig, rows: int, capacity: int, dtype: DTypeLike) -> KeyValueCache:
    """A cache without tokens.

    Args:
      config: of the stack.
      rows: B.
      capacity: S, the most tokens that a row can have, padding included.
      dtype: of keys and values: that of computation.
    """
    shape = (rows, config.heads, capacity, config.head_size)

    def layer(*layers: int) -> KeysValues:
        return KeysValues(jnp.zeros((*layers, *shape), dtype), jnp.zeros((*layers, *shape), dtype))

    layers = {"blocks": layer(config.depth)} if config.scan_layers else {}
    layers |= {f"block_{i}": layer() for i in range(config.depth) if not config.scan_layers}
    return KeyValueCache(layers, jnp.zeros((rows, capacity), jnp.int32), jnp.zeros((), jnp.int32))


def extend_cache(cache: KeyValueCache, capacity: int) -> KeyValueCache:
    """The same tokens in a cache of more places."""
    added = capacity - cache.capacity
    assert added >= 0, f"{capacity} places are fewer than {cache.capacity}"

    def extend(x: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.pad(x, [*[(0, 0)] * (x.ndim - 2), (0, added), (0, 0)])

    layers = {
        name: kept._replace(keys=extend(kept.keys), values=extend(kept.values)) for name, kept in cache.layers.items()
    }
    segments = jnp.pad(cache.segments, ((0, 0), (0, added)))
    return dataclasses.replace(cache, layers=layers, segments=segments)


def take_rows(cache: KeyValueCache, rows: Int[Array, " R"]) -> KeyValueCache:
    """The given rows of a cache, in that order; a row may come several times, as the beams of one prompt do."""
    layers = jax.tree.map(lambda x: jnp.take(x, rows, axis=x.ndim - 4), cache.layers)
    segments, others = jax.tree.map(lambda x: jnp.take(x, rows, axis=0), (cache.segments, cache.other_segments))
    return KeyValueCache(layers, segments, cache.filled, others)


def add_places(
    cache: KeyValueCache, segments: Int[Array, "B T"]
) -> tuple[KeyValueCache, Int[Array, ""], Bool[Array, "B 1 T S"]]:
    """Gives the next places to new tokens.

    Args:
      cache: of the tokens before, with room for the new ones.
      segments: of the new tokens.
    Returns:
      The cache with the segments of the new tokens, whose keys and values are still to be stored; the first of their
      places; and which places each of them sees: those of its own segment, up to its own.
    """
    first, new = cache.filled, segments.shape[1]
    start = (jnp.zeros_like(first), first)
    places = jax.lax.dynamic_update_slice(cache.segments, segments.astype(cache.segments.dtype), start)
    same = segments[:, :, None] == places[:, None, :]
    past = (first + jnp.arange(new))[:, None] >= jnp.arange(cache.capacity)[None, :]
    after = dataclasses.replace(cache, segments=places, filled=first + new)
    return after, first, (same & past[None])[:, None]


def counted_places(cache: KeyValueCache, new: int) -> tuple[Int[Array, "B T"], Int[Array, "B S"]]:
    """How many tokens of its row stand before each new one, and before each place; padding in between counts nothing.

    Args:
      cache: of which the new tokens have got places.
      new: how many they are, T.
    """
    places = jnp.cumsum(cache.segments > 0, axis=1, dtype=jnp.int32) - 1
    return jax.lax.dynamic_slice_in_dim(places, cache.filled - new, new, axis=1), places


def store(cache: LayerCache, key: Float[Array, "B T H K"], value: Float[Array, "B T H K"]) -> KeysValues:
    """The keys and values of a layer, with those of new tokens in their places."""

    def put(before: Float[Array, "B H S K"], new: Float[Array, "B T H K"]) -> Float[Array, "B H S K"]:
        zero = jnp.zeros_like(cache.first)
        new = jnp.swapaxes(new, 1, 2).astype(before.dtype)
        after = jax.lax.dynamic_update_slice(before, new, (zero, zero, cache.first, zero))
        return constrain(after, BATCH_AXES, "tensor", None, None)

    return cache.before._replace(keys=put(cache.before.keys, key), values=put(cache.before.values, value))


def keep_others(cache: LayerCache, key: Float[Array, "B O H K"], value: Float[Array, "B O H K"]) -> LayerCache:
    """The cache of a layer, with the keys and values of what it looks at besides the tokens."""
    keys, values = (constrain(jnp.swapaxes(new, 1, 2), BATCH_AXES, "tensor", None, None) for new in (key, value))
    return cache._replace(before=cache.before._replace(other_keys=keys, other_values=values))


def attend_cached(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B T H K"],
    value: Float[Array, "B T H K"],
    cache: LayerCache,
    bias: Float[Array, "#B H T S"] | None = None,
) -> tuple[Float[Array, "B T H K"], KeysValues]:
    """Gives every new token a weighted mean of the values that it may see.

    Args:
      query, key, value: of the new tokens.
      cache: of the tokens before.
      bias: added to the logits.
    Returns:
      The means, in the dtype of `query`, zeros for a token that sees none; and all keys and values.
    """
    stored = store(cache, key, value)
    return _weighted_mean(query, stored.keys, stored.values, cache.visible, bias), stored


def attend_kept_others(
    query: Float[Array, "B T H K"], segments: Int[Array, "B T"] | None, cache: LayerCache
) -> Float[Array, "B T H K"]:
    """Gives every new token a weighted mean of the others' values in the cache, of those of its own segment."""
    others = cache.other_segments
    mask = visible(
        query.shape[1], cache.before.other_keys.shape[2], None if others is None else segments, others, False
    )
    return _weighted_mean(query, cache.before.other_keys, cache.before.other_values, mask)


def _weighted_mean(query, keys, values, mask, bias=None):
    weights = attention_weights(query, jnp.swapaxes(keys, 1, 2), mask, bias)
    return jnp.einsum("BHTS,BHSK->BTHK", weights.astype(query.dtype), values)
