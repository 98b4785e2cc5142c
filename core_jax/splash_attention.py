"""Attention on TPU for long rows by jax's Pallas kernel "splash attention": logits stay in the chip's fast memory.

Axes: B batch, T queries, S keys, H heads, K width of a head.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jaxtyping import Array, Float, Int

LANES = 128  # lengths must be multiples of it
LARGEST_BLOCK = 512
ATTENTION_NAME = "attention"  # what remat policies call the results of attention
PADDING = -1  # segment of the positions that only fill up a length


def attend_splash(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B S H K"],
    value: Float[Array, "B S H K"],
    query_segments: Int[Array, "B T"],
    key_segments: Int[Array, "B S"],
    *,
    causal: bool = False,
    interpret: bool = False,
) -> Float[Array, "B T H K"]:
    """Attention within segments; a query that sees no key gets something finite.

    Args:
      query, key, value: lengths of any size; they are filled up to full lanes.
      query_segments, key_segments: a query sees only keys of its own segment.
      causal: a query at position t sees only keys at positions up to t.
      interpret: run on any device, slowly.
    Returns:
      The weighted means, in the dtype of `query`.
    Source: Dao et al. 2022, https://arxiv.org/abs/2205.14135, as implemented in jax.
    """
    queries, keys = (-(-x.shape[1] // LANES) * LANES for x in (query, key))
    segments = kernel.SegmentIds(_fill(query_segments, queries, PADDING), _fill(key_segments, keys, PADDING))
    scaled = query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
    heads_first = [jnp.swapaxes(_fill(x, n, 0), 1, 2) for x, n in ((scaled, queries), (key, keys), (value, keys))]
    run = _make_kernel(query.shape[2], queries, keys, causal, interpret)
    means: Any = jax.vmap(run)(*heads_first, segments)
    return jnp.swapaxes(means, 1, 2)[:, : query.shape[1]]


def _fill(x, length, value):
    return jnp.pad(x, [(0, 0), (0, length - x.shape[1])] + [(0, 0)] * (x.ndim - 2), constant_values=value)


def _make_kernel(heads, queries, keys, causal, interpret):
    mask = (masks.CausalMask if causal else masks.FullMask)((queries, keys))
    block_q, block_kv = (max(b for b in range(LANES, LARGEST_BLOCK + 1, LANES) if n % b == 0) for n in (queries, keys))
    sequence_minor = kernel.QKVLayout.SEQ_MINOR  # heads narrower than 128 lanes would be padded to them in HBM
    sizes = kernel.BlockSizes(
        block_q=block_q,
        block_kv=block_kv,
        block_q_dkv=block_q,
        block_kv_dkv=block_kv,
        use_fused_bwd_kernel=True,
        q_layout=sequence_minor,
        k_layout=sequence_minor,
        v_layout=sequence_minor,
    )
    return kernel.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=ATTENTION_NAME,
        interpret=interpret,
    )
