"""`attend`: who looks at whom is said by segment ids; how it is computed is chosen by name.

Axes: B batch, T queries, S keys, H heads, K width of a head.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, DTypeLike, Float, Int, Key

from core_jax.dropout import drop_weights, row_seeds
from core_jax.fused_attention import LONGEST, Options, attend_fused
from core_jax.matmul import wants_float32_sums
from core_jax.rounded_attention import attend_rounded
from core_jax.sharding import BATCH_AXES, on_each_device, shards_evenly, target_platform
from core_jax.splash_attention import attend_splash

Chosen = Literal["reference", "xla", "fused", "splash", "cudnn", "rounded"]
Implementation = Literal["auto"] | Chosen
HEADS = P(BATCH_AXES, None, "tensor", None)
ROWS = P(BATCH_AXES, None)


def attend(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B S H K"],
    value: Float[Array, "B S H K"],
    *,
    query_segments: Int[Array, "B T"] | None = None,
    key_segments: Int[Array, "B S"] | None = None,
    bias: Float[Array, "#B H T S"] | None = None,
    causal: bool = False,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
    implementation: Implementation = "auto",
) -> Float[Array, "B T H K"]:
    """Gives every query a weighted mean of the values that it may see.

    Args:
      query, key, value: one float dtype for all three; logits and softmax run in float32.
      query_segments, key_segments: a query sees only keys of its own segment; give both or neither. Padding is a
        segment like any other, by convention 0. For the same positions give the same array: that is faster.
      bias: added to the logits, float32; "reference" and "xla" can do that, so "auto" means one of these.
      causal: a query at position t sees only keys at positions up to t.
      dropout_rate: probability of dropping each attention weight.
      dropout_key: the randomness of dropout; none means no dropout.
      implementation: "reference" (einsum), "xla" (`jax.nn.dot_product_attention`), "cudnn" (the same, GPU), "fused"
        and "splash" (Pallas, TPU; elsewhere interpreted, slowly), "rounded" (bfloat16 on one CPU device), or "auto".
    Returns:
      The means, in the dtype of `query`. A query that sees no key gets zeros, not NaN.
    Raises:
      ValueError: keys and values differ in number, one segment array is missing, or the implementation cannot do it.
    Source: Vaswani et al. 2017, eq. 1, https://arxiv.org/abs/1706.03762
    """
    _check(key, value, query_segments, key_segments)
    length, rate = query.shape[1], dropout_rate if dropout_key is not None else 0.0
    among_themselves = query.shape[1] == key.shape[1] and query_segments is key_segments
    asked: Any = {"drops": rate > 0, "among_themselves": among_themselves, "biased": bias is not None}
    chosen = choose(implementation, length, query.shape[3], query.dtype, **asked)
    if chosen == "fused":
        options = {"causal": causal, "dropout_rate": rate, "dropout_key": dropout_key}
        return attend_joint(jnp.concatenate((query, key, value), axis=-1), query_segments, **options)
    mask = visible(length, key.shape[1], query_segments, key_segments, causal)
    if chosen == "rounded":
        return attend_rounded(query, key, value, mask, dropout_key, rate)
    if chosen == "reference" or (chosen == "splash" and not shards_evenly(query.shape, HEADS)):
        return _attend_reference(query, key, value, mask, rate, dropout_key, bias)
    if chosen == "splash":
        means = _attend_splash(query, key, value, query_segments, key_segments, causal)
    else:
        means = jax.nn.dot_product_attention(query, key, value, bias, mask=mask, implementation=chosen)
    return means if among_themselves else _zero_where_blind(means, mask)


def _check(key, value, query_segments, key_segments):
    if key.shape[1] != value.shape[1]:
        raise ValueError(f"{key.shape[1]} keys but {value.shape[1]} values")
    if (query_segments is None) != (key_segments is None):
        raise ValueError("query_segments and key_segments: give both or neither")


def choose(
    wanted: Implementation,
    length: int,
    head_width: int,
    dtype: DTypeLike,
    *,
    drops: bool,
    among_themselves: bool = True,
    biased: bool = False,
) -> Chosen:
    """The implementation that "auto" means for these shapes on the device that is compiled for; others are checked.

    Args:
      wanted: as in the configuration.
      length: number of queries, T.
      head_width: K.
      dtype: of the queries.
      drops: whether attention weights are dropped.
      among_themselves: whether queries and keys are the same positions.
      biased: whether something is added to the logits.
    Raises:
      ValueError: what is wanted cannot do this.
    """
    fits = among_themselves and length <= LONGEST
    if wanted == "fused" and not fits:
        limit = f"up to {LONGEST} positions among themselves, not {length}"
        raise ValueError(f"attention='fused' is for {limit}: use 'auto'")
    if drops and wanted in ("xla", "splash", "cudnn"):
        raise ValueError(f"attention={wanted!r} has no dropout: set the attention dropout to 0, or use 'auto'")
    if biased and wanted in ("fused", "splash", "cudnn", "rounded"):
        raise ValueError(f"attention={wanted!r} cannot add a bias: use 'auto', 'xla' or 'reference'")
    if wanted != "auto":
        return wanted
    if biased:
        return "reference" if drops else "xla"
    platform = target_platform()
    if platform == "tpu" and fits:
        return "fused"
    if among_themselves and wants_float32_sums(dtype):
        return "rounded"
    if drops:
        return "reference"
    if platform == "tpu":
        return "splash"
    if platform == "gpu" and dtype in (jnp.bfloat16, jnp.float16) and head_width % 8 == 0 and head_width <= 128:
        return "cudnn"
    return "xla"


def attend_joint(
    joint: Float[Array, "B T H threeK"],
    segments: Int[Array, "B T"] | None,
    *,
    causal: bool = False,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
) -> Float[Array, "B T H K"]:
    """The "fused" implementation, on queries, keys and values that one product computed.

    Args:
      joint: for each head query, key and value, one after the other.
      segments, causal, dropout_rate, dropout_key: as for `attend`.
    Returns:
      As `attend`.
    """
    rows, length, heads, width = joint.shape
    rate = dropout_rate if dropout_key is not None else 0.0
    if not shards_evenly(joint.shape, HEADS):  # a single row on a mesh, as when parameters are initialised
        mask = visible(length, length, segments, segments, causal)
        query, key, value = jnp.split(joint, 3, axis=-1)
        return _attend_reference(query, key, value, mask, rate, dropout_key)
    seeds = row_seeds(dropout_key, rows)
    segments = jnp.zeros((rows, length), jnp.int32) if segments is None else segments

    def attend_part(joint, segments, seeds, head_numbers):
        options = Options(joint.shape[2], causal, rate, interpret=target_platform() != "tpu")
        means: Any = attend_fused(joint.reshape(*joint.shape[:2], -1), segments, seeds, head_numbers, options)
        return means.reshape(*joint.shape[:3], width // 3)

    run = on_each_device(attend_part, (HEADS, ROWS, P(BATCH_AXES), P("tensor")), HEADS)
    return run(joint, segments, seeds, jnp.arange(heads, dtype=jnp.uint32))


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


def attention_weights(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B S H K"],
    mask: Bool[Array, "#B 1 T S"] | None = None,
    bias: Float[Array, "#B H T S"] | None = None,
) -> Float[Array, "B H T S"]:
    """How much each query looks at each key, in float32; `mask` is of `visible`, `bias` is added to the logits."""
    logits = jnp.einsum("BTHK,BSHK->BHTS", query, key, preferred_element_type=jnp.float32)
    logits = logits * (query.shape[-1] ** -0.5)
    if bias is not None:
        logits = logits + bias
    if mask is None:
        return jax.nn.softmax(logits, axis=-1)
    # masked twice: a row without any visible key must come out as zeros, with a gradient that is not NaN
    return jnp.where(mask, jax.nn.softmax(jnp.where(mask, logits, jnp.finfo(jnp.float32).min), axis=-1), 0.0)


def _attend_reference(query, key, value, mask, dropout_rate, dropout_key, bias=None):
    weights = attention_weights(query, key, mask, bias)
    if dropout_rate > 0:
        weights = drop_weights(weights, dropout_key, dropout_rate)
    return jnp.einsum("BHTS,BSHK->BTHK", weights.astype(query.dtype), value)


def _zero_where_blind(means, mask):
    if mask is None:
        return means
    sees_any = jnp.any(mask, axis=-1)[:, 0, :, None, None]  # B T 1 1
    return jnp.where(sees_any, means, jnp.zeros_like(means))


def _attend_splash(query, key, value, query_segments, key_segments, causal):
    if query_segments is None:
        query_segments, key_segments = (jnp.zeros(x.shape[:2], jnp.int32) for x in (query, key))
    attend_shard = functools.partial(attend_splash, causal=causal, interpret=target_platform() != "tpu")
    return on_each_device(attend_shard, (HEADS, HEADS, HEADS, ROWS, ROWS), HEADS)(
        query, key, value, query_segments, key_segments
    )
