"""Attention on TPU as one Pallas kernel for rows that fit on the chip, forward and backward.

A program of the grid holds one row and as many heads as fill 128 lanes. It reads queries, keys and values as the
projections wrote them, side by side: no transposes, no padding of narrow heads to 128 lanes, no logits, weights or
row sums in HBM. The backward pass computes the weights again, and dropout is a hash of (seed, head, query, key), so
that neither is stored. Longer rows are for splash attention (`core_jax/splash_attention.py`).

Axes: B batch, T positions, H heads, K width of a head.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int, UInt32

from core_jax.dropout import is_kept, part_seed, weight_place

LANES = 128
LONGEST = 1024  # positions; what a program holds grows with BLOCK x positions
BLOCK = 256  # queries at one time
HIDDEN = -0.7 * float(jnp.finfo(jnp.float32).max)  # in place of a masked logit
VMEM_BYTES = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class Options:
    """What is fixed when the kernel is compiled."""

    heads: int
    causal: bool = False
    dropout_rate: float = 0.0
    interpret: bool = False  # run on any device, slowly


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attend_fused(
    joint: Float[Array, "B T threeHK"],
    segments: Int[Array, "B T"],
    seeds: UInt32[Array, " B"],
    head_numbers: UInt32[Array, " H"],
    options: Options,
) -> Float[Array, "B T HK"]:
    """Self-attention within segments.

    Args:
      joint: query, key and value of head 0, then of head 1, ... side by side; T is at most LONGEST.
      segments: a query sees only keys of its own segment.
      seeds: random bits for each row's dropout.
      head_numbers: which head of the whole model each one is: with heads spread over devices, dropout stays the same.
      options: static.
    Returns:
      The weighted means of all heads side by side, in the dtype of `joint`.
    Source: Vaswani et al. 2017, eq. 1; recomputation in the backward pass as in Dao et al. 2022,
      https://arxiv.org/abs/2205.14135
    """
    return _Call.of(joint, options).run(_forward_kernel, [joint], 1, segments, seeds, head_numbers)


def _forward(joint, segments, seeds, head_numbers, options):
    out = attend_fused(joint, segments, seeds, head_numbers, options)
    return out, (joint, segments, seeds, head_numbers)


def _backward(options, saved, gradient):
    joint, *rest = saved
    return _Call.of(joint, options).run(_backward_kernel, [joint, gradient], 3, *rest), None, None, None


attend_fused.defvjp(_forward, _backward)


@dataclasses.dataclass(frozen=True)
class _Call:
    """The grid and the blocks, the same forward and backward."""

    options: Options
    rows: int
    length: int  # of a block: full lanes
    given_length: int  # of the arrays; what a block holds beyond is undefined when read, and dropped when written
    group: int  # heads of one program
    width: int  # of one head

    @classmethod
    def of(cls, joint, options):
        rows, length, lanes = joint.shape
        width = lanes // options.heads // 3
        divisors = [g for g in range(1, options.heads + 1) if options.heads % g == 0]
        group = next(g for g in divisors if g * width % LANES == 0 or g == options.heads)
        return cls(options, rows, -(-length // LANES) * LANES, length, group, width)

    def run(self, kernel, inputs, parts, segments, seeds, head_numbers):
        """Calls a kernel; its output is `parts` times as wide as all heads."""
        segments = jnp.pad(segments, ((0, 0), (0, self.length - self.given_length)), constant_values=-1)[:, None]
        groups, width = self.options.heads // self.group, parts * self.options.heads * self.width

        def block(width):
            return pl.BlockSpec((1, self.length, width // groups), lambda row, group, *_: (row, 0, group))

        return pl.pallas_call(
            functools.partial(kernel, self),
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=2,
                grid=(self.rows, groups),
                in_specs=[
                    pl.BlockSpec((1, 1, self.length), lambda row, *_: (row, 0, 0)),
                    *(block(x.shape[2]) for x in inputs),
                ],
                out_specs=block(width),
            ),
            out_shape=jax.ShapeDtypeStruct((self.rows, self.given_length, width), inputs[0].dtype),
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=VMEM_BYTES
            ),
            interpret=self.options.interpret,
            name=kernel.__name__.strip("_"),
        )(seeds, head_numbers, segments, *inputs)

    def heads(self, seeds, head_numbers):
        """(lanes of query, key, value, output; dropout seed) for every head of this program."""
        row, group = pl.program_id(0), pl.program_id(1)
        for head in range(self.group):
            seed = part_seed(seeds[row], head_numbers[group * self.group + head])
            parts = [slice(p * self.width, (p + 1) * self.width) for p in (3 * head, 3 * head + 1, 3 * head + 2, head)]
            yield *parts, seed

    def blocks(self):
        """The queries in blocks."""
        size = BLOCK if self.length % BLOCK == 0 else LANES
        return [slice(start, start + size) for start in range(0, self.length, size)]

    def read(self, block, rows, lanes):
        """A part of a block; what lies beyond the array comes as zeros, as 0 times NaN is NaN."""
        part = block[0, rows, lanes]
        if rows.stop <= self.given_length:
            return part
        there = _places(part.shape, rows, 0) < self.given_length
        # The comparison is of 32 bits, and so must be what it chooses from.
        return jnp.where(there, part.astype(jnp.float32), 0.0).astype(part.dtype)


def _forward_kernel(call, seeds, head_numbers, segments, joint, out):
    dot = functools.partial(_dot, joint.dtype)
    for q, k, v, o, seed in call.heads(seeds, head_numbers):
        keys, values = (call.read(joint, slice(0, call.length), part) for part in (k, v))
        for rows in call.blocks():
            weights = _weights(call, dot(call.read(joint, rows, q), keys, 1, 1), segments, rows)
            kept = _drop(call, weights, seed, rows).astype(values.dtype)
            out[0, rows, o] = dot(kept, values, 1, 0).astype(out.dtype)


def _backward_kernel(call, seeds, head_numbers, segments, joint, gradient, out):
    dot = functools.partial(_dot, joint.dtype)
    for q, k, v, o, seed in call.heads(seeds, head_numbers):
        keys, values = (call.read(joint, slice(0, call.length), part) for part in (k, v))
        of_keys, of_values = jnp.zeros(keys.shape, jnp.float32), jnp.zeros(values.shape, jnp.float32)
        for rows in call.blocks():
            queries, of_means = call.read(joint, rows, q), call.read(gradient, rows, o)
            weights = _weights(call, dot(queries, keys, 1, 1), segments, rows)
            kept = _drop(call, weights, seed, rows).astype(values.dtype)
            of_values += dot(kept, of_means, 0, 0)
            of_weights = _drop(call, dot(of_means, values, 1, 1), seed, rows)
            of_logits = weights * (of_weights - jnp.sum(weights * of_weights, axis=1, keepdims=True))
            of_logits = (of_logits * call.width**-0.5).astype(keys.dtype)
            out[0, rows, q] = dot(of_logits, keys, 1, 0).astype(out.dtype)
            of_keys += dot(of_logits, queries, 0, 0)
        out[0, :, k] = of_keys.astype(out.dtype)
        out[0, :, v] = of_values.astype(out.dtype)


def _dot(dtype, left, right, left_axis, right_axis):
    """Sums over one axis of each, in float32; float32 operands are not rounded to bfloat16 on the way."""
    precision = jax.lax.Precision.HIGHEST if dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    axes = (((left_axis,), (right_axis,)), ((), ()))
    return jax.lax.dot_general(left, right, axes, precision, jnp.float32)


def _weights(call, logits, segments, rows):
    """Softmax of a block of queries over all keys, in float32."""
    # Segments lie along lanes; those of the queries are needed as a column.
    row = jnp.broadcast_to(segments[0, :, rows], (8, logits.shape[0]))
    mask = jnp.swapaxes(row, 0, 1)[:, :1] == segments[0]
    if call.options.causal:
        mask &= _places(logits.shape, rows, 0) >= _places(logits.shape, rows, 1)
    logits = jnp.where(mask, logits * call.width**-0.5, HIDDEN)
    unscaled = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
    return unscaled / jnp.sum(unscaled, axis=1, keepdims=True)


def _drop(call, x, seed, rows):
    """Sets what dropout drops to zero and scales the rest; the same for weights and for their gradients."""
    rate = call.options.dropout_rate
    if not rate:
        return x
    places = weight_place(_places(x.shape, rows, 0), _places(x.shape, rows, 1))
    return jnp.where(is_kept(places, seed, rate), x / (1 - rate), 0.0)


def _places(shape, rows, axis):
    return jax.lax.broadcasted_iota(jnp.int32, shape, axis) + (rows.start if axis == 0 else 0)
