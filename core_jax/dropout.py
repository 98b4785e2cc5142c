"""Dropout by a hash: whether a unit is kept follows from its place and a seed, so that no mask is drawn or stored.

A kernel can compute it inside, every device computes its own part, and the backward pass computes it again.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer, Key, UInt32

PITCH = 2**16  # between the places of two queries: up to so many keys a weight has one of its own


def is_kept(places: Integer[Array, "*shape"], seed: UInt32[Array, "*#shape"], rate: float) -> Bool[Array, "*shape"]:
    """Whether dropout keeps a unit.

    Args:
      places: which unit of those that share a seed, from 0.
      seed: random bits.
      rate: probability of dropping.
    """
    return (mix(places.astype(jnp.uint32) ^ seed) >> 8).astype(jnp.int32) >= round(rate * 2**24)


def part_seed(seed: UInt32[Array, "*#shape"], part: UInt32[Array, "*#shape"]) -> UInt32[Array, "*shape"]:
    """The seed of one part, such as a row or a head, of what has a seed."""
    return mix(seed ^ mix(part + jnp.uint32(1)))


def mix(x: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """A 32-bit permutation in which every input bit moves every output bit.

    Source: "lowbias32", C. Wellons 2018, https://nullprogram.com/blog/2018/07/31/ (public domain)
    """
    x = x ^ (x >> 16)
    x = x * jnp.uint32(0x7FEB352D)
    x = x ^ (x >> 15)
    x = x * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def row_seeds(key: Key[Array, ""] | None, rows: int) -> UInt32[Array, " B"]:
    """The seed of every row of a batch; zeros where there is no randomness."""
    return jnp.zeros(rows, jnp.uint32) if key is None else jax.random.bits(key, (rows,), jnp.uint32)


def weight_place(query: Int[Array, "*#shape"], key: Int[Array, "*#shape"]) -> UInt32[Array, "*shape"]:
    """The place of an attention weight among those of its row and head, by the positions of query and key."""
    return query.astype(jnp.uint32) * jnp.uint32(PITCH) + key.astype(jnp.uint32)


def drop_weights(weights: Float[Array, "B H T S"], key: Key[Array, ""], rate: float) -> Float[Array, "B H T S"]:
    """Drops attention weights, the same ones as the kernel that computes them out of sight.

    Args:
      weights: of up to PITCH keys.
      key: the randomness; the mask does not depend on the mesh.
      rate: probability of dropping, at least 0 and below 1.
    """
    batch, heads, queries, keys = weights.shape
    numbers = jnp.arange(heads, dtype=jnp.uint32)[None, :, None, None]
    seeds = part_seed(row_seeds(key, batch)[:, None, None, None], numbers)
    places = weight_place(jnp.arange(queries)[None, None, :, None], jnp.arange(keys)[None, None, None])
    kept = is_kept(jnp.broadcast_to(places, weights.shape), seeds, rate)
    return jnp.where(kept, weights / (1 - rate), 0.0)


def drop_units(x: Float[Array, "B ..."], key: Key[Array, ""], rate: float) -> Float[Array, "B ..."]:
    """Sets each unit to zero with a probability, and scales the others so that the mean stays.

    Args:
      x: rows of units; those of a row are numbered, so a row may have 2^32.
      key: the randomness; the mask does not depend on the mesh.
      rate: probability of dropping, at least 0 and below 1.
    Source: Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """
    return _drop(x, jax.random.bits(key, (), jnp.uint32), rate)


def drop_rows(x: Float[Array, "B ..."], key: Key[Array, ""], rate: Float[Array, ""]) -> Float[Array, "B ..."]:
    """Sets whole rows to zero with a probability, and scales the others so that the mean stays.

    Args:
      x: rows.
      key: the randomness; it does not depend on the mesh.
      rate: probability of dropping, at least 0 and below 1.
    Source: Huang et al. 2016, https://arxiv.org/abs/1603.09382
    """
    kept = jax.random.uniform(key, (x.shape[0], *(1,) * (x.ndim - 1))) >= rate
    return jnp.where(kept, x / (1 - rate).astype(x.dtype), jnp.zeros((), x.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _drop(x, seed, rate):
    rows = jax.lax.broadcasted_iota(jnp.uint32, (x.shape[0], *(1,) * (x.ndim - 1)), 0)
    places = jnp.zeros((1, *x.shape[1:]), jnp.uint32)
    for axis in range(1, x.ndim):
        places += jax.lax.broadcasted_iota(jnp.uint32, places.shape, axis) * math.prod(x.shape[axis + 1 :])
    kept = is_kept(jnp.broadcast_to(places, x.shape), part_seed(seed, rows), rate)
    return jnp.where(kept, x * jnp.asarray(1 / (1 - rate), x.dtype), jnp.zeros((), x.dtype))


def _drop_forward(x, seed, rate):
    return _drop(x, seed, rate), seed


def _drop_backward(rate, seed, gradient):
    return _drop(gradient, seed, rate), None


_drop.defvjp(_drop_forward, _drop_backward)
