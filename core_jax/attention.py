"""`attend`: who looks at whom is said by segment ids; how it is computed is chosen by name.

Axes: B batch, T queries, S keys, H heads, K width of a head.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

Implementation = Literal["auto", "reference", "xla"]


def attend(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B S H K"],
    value: Float[Array, "B S H K"],
    *,
    query_segments: Int[Array, "B T"] | None = None,
    key_segments: Int[Array, "B S"] | None = None,
    causal: bool = False,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
    implementation: Implementation = "auto",
) -> Float[Array, "B T H K"]:
    """Gives every query a weighted mean of the values that it may see.

    Args:
      query, key, value: one float dtype for all three; logits and softmax run in float32.
      query_segments, key_segments: a query sees only keys of its own segment; give both or neither. Padding is a
        segment like any other, by convention number 0.
      causal: a query at position t sees only keys at positions up to t.
      dropout_rate: probability of dropping each attention weight; only the reference can.
      dropout_key: the randomness of dropout; none means no dropout.
      implementation: "reference" (einsum), "xla" (`jax.nn.dot_product_attention`), or "auto".
    Returns:
      The means, in the dtype of `query`. A query that sees no key gets zeros, not NaN.
    Raises:
      ValueError: the numbers of keys and values differ, or one of the two segment arrays is missing.
    Source: Vaswani et al. 2017, eq. 1, https://arxiv.org/abs/1706.03762
    """
    if key.shape[1] != value.shape[1]:
        raise ValueError(f"{key.shape[1]} keys but {value.shape[1]} values")
    if (query_segments is None) != (key_segments is None):
        raise ValueError("query_segments and key_segments: give both or neither")
    mask = visible(query.shape[1], key.shape[1], query_segments, key_segments, causal)
    drops = dropout_rate > 0 and dropout_key is not None
    if implementation == "auto":
        implementation = "reference" if drops else "xla"
    if implementation == "xla":
        if drops:
            raise ValueError("attention='xla' has no dropout: use 'reference' or set the attention dropout to 0")
        return _attend_xla(query, key, value, mask)
    return _attend_reference(query, key, value, mask, dropout_rate if drops else 0.0, dropout_key)


def visible(
    queries: int,
    keys: int,
    query_segments: Int[Array, "B T"] | None,
    key_segments: Int[Array, "B S"] | None,
    causal: bool,
) -> Bool[Array, "#B 1 T S"] | None:
    """The mask that segments and causality make: True where a query may look, None where all may look everywhere."""
    mask = None
    if query_segments is not None and key_segments is not None:
        mask = (query_segments[:, :, None] == key_segments[:, None, :])[:, None]
    if causal:
        past = (jnp.arange(queries)[:, None] >= jnp.arange(keys)[None, :])[None, None]
        mask = past if mask is None else mask & past
    return mask


def _attend_reference(query, key, value, mask, dropout_rate, dropout_key):
    logits = jnp.einsum("BTHK,BSHK->BHTS", query, key, preferred_element_type=jnp.float32)
    logits = logits * (query.shape[-1] ** -0.5)
    if mask is None:
        weights = jax.nn.softmax(logits, axis=-1)
    else:  # masked twice: a row without any visible key must come out as zeros, with a gradient that is not NaN
        weights = jnp.where(mask, jax.nn.softmax(jnp.where(mask, logits, jnp.finfo(jnp.float32).min), axis=-1), 0.0)
    if dropout_rate > 0:
        kept = jax.random.bernoulli(dropout_key, 1 - dropout_rate, weights.shape)
        weights = jnp.where(kept, weights / (1 - dropout_rate), 0.0)
    return jnp.einsum("BHTS,BSHK->BTHK", weights.astype(query.dtype), value)


def _attend_xla(query, key, value, mask):
    means = jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="xla")
    if mask is None:
        return means
    sees_any = jnp.any(mask, axis=-1)[:, 0, :, None, None]  # B T 1 1
    return jnp.where(sees_any, means, jnp.zeros_like(means))
