"""Attention of bfloat16 on a CPU: products by its bfloat16 instructions, softmax in float32, head by head in memory.

The backward pass needs no sum over the weights: what softmax subtracts is the product of the means and their gradient.

Axes: B batch, T queries, S keys, H heads, K width of a head.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from core_jax.dropout import drop_weights
from core_jax.matmul import float32_product, row_major


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def attend_rounded(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B S H K"],
    value: Float[Array, "B S H K"],
    mask: Bool[Array, "#B 1 T S"] | None,
    dropout_key: Key[Array, ""] | None,
    dropout_rate: float,
) -> Float[Array, "B T H K"]:
    """Attention, each query of which sees a key at least.

    Args:
      query, key, value: bfloat16.
      mask: True where a query may look; none: everywhere.
      dropout_key: the randomness of dropout; none means no dropout.
      dropout_rate: probability of dropping a weight.
    Source: Vaswani et al. 2017, eq. 1; the backward pass as in Dao et al. 2022, https://arxiv.org/abs/2205.14135
    """
    return _forward(query, key, value, mask, dropout_key, dropout_rate)[0]


def _forward(query, key, value, mask, dropout_key, dropout_rate):
    query, key, value = (_heads_first(x) for x in (query, key, value))
    logits = float32_product(query, key, -1) * query.shape[-1] ** -0.5
    weights = jax.nn.softmax(logits if mask is None else jnp.where(mask, logits, jnp.finfo(jnp.float32).min), axis=-1)
    dropped = _drop(weights, dropout_key, dropout_rate)
    means = float32_product(dropped.astype(value.dtype), value, -2).astype(value.dtype)
    return jnp.swapaxes(means, 1, 2), (query, key, value, weights.astype(value.dtype), means, dropout_key)


def _backward(dropout_rate, saved, gradient):
    query, key, value, weights, means, dropout_key = saved
    gradient, dtype = _heads_first(gradient), value.dtype
    kept = _drop(weights, dropout_key, dropout_rate)
    of_value = _over_queries(kept, gradient)
    of_weights = _drop(float32_product(gradient, value, -1), dropout_key, dropout_rate)
    subtracted = jnp.sum((gradient * means).astype(jnp.float32), axis=-1, keepdims=True)
    of_logits = weights * (of_weights - subtracted) * query.shape[-1] ** -0.5
    of_logits = of_logits.astype(dtype)
    of_query = float32_product(of_logits, key, -2)
    of_key = _over_queries(of_logits, query)
    gradients = (jnp.swapaxes(x.astype(dtype), 1, 2) for x in (of_query, of_key, of_value))
    return *gradients, None, None


attend_rounded.defvjp(_forward, _backward)


def _over_queries(weights, x):
    """The product of the transposed weights, B H S T, and x, B H T K; what is transposed is only as wide as a head."""
    return jnp.swapaxes(float32_product(row_major(jnp.swapaxes(x, -1, -2)), weights, -2), -1, -2)


def _heads_first(x):
    return row_major(jnp.swapaxes(x, 1, 2))


def _drop(weights, key, rate):
    return weights if key is None or not rate else drop_weights(weights, key, rate)
