"""Arithmetic of a function, counted in its jaxpr: exact for loops, remat and kernels, and the same on every backend.

What a model needs, in contrast to what is computed, follows from its sizes: `stack_flops`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from core_jax.config import TransformerConfig

TRAINING = 3  # times a forward pass: backward, every product gives two, one for each of its factors
# Products that a kernel of cuDNN hides from the jaxpr, each of as many operations as queries with keys.
HIDDEN_PRODUCTS = {"dot_product_attention_fwd_wrapper": 2, "dot_product_attention_bwd_wrapper": 5}
Count = Float[Array, ""] | int


def stack_flops(config: TransformerConfig, positions: Count, seen: Count) -> Count:
    """Operations that the forward pass of a stack of Transformer blocks needs.

    Args:
      config: of the stack.
      positions: that are computed.
      seen: positions that each of them looks at, added up.
    Source: Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B.
    """
    inner = config.heads * config.head_size
    weights = 4 * config.width * inner + (3 if config.mlp_kind == "gated" else 2) * config.width * config.mlp_width
    return for_each(positions, 2 * config.depth * weights) + for_each(seen, 4 * config.depth * inner)


def for_each(count: Count, operations: int) -> Count:
    """The operations of so many, where one may need more than the 32 bits of a traced integer hold."""
    return count * operations if isinstance(count, int) else count * float(operations)


def count_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """Operations of the matrix products of a function, over all devices; two for each multiplication and addition.

    Args:
      function: pure; is traced, not run.
      arguments: arrays or shapes.
    Returns:
      The number. A scanned body counts once per turn, a kernel once per program of its grid, and what remat computes
      twice counts twice. Elementwise operations are left out: they are bound by memory.
    """
    return count_operations(jax.make_jaxpr(function)(*arguments).jaxpr)


def count_operations(jaxpr: Any) -> int:
    """The same, of a function that is traced already."""
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation):
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        ((contracted, _), _), left = params["dimension_numbers"], equation.invars[0].aval.shape
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel, numbers = equation.invars[1].aval.shape, params["dimension_numbers"]
        outputs = kernel[numbers.rhs_spec[0]]
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // outputs
    if name in HIDDEN_PRODUCTS:
        rows, queries, heads, width = equation.invars[0].aval.shape
        keys = equation.invars[1].aval.shape[1]
        return HIDDEN_PRODUCTS[name] * 2 * rows * heads * queries * keys * width
    inner = [count_operations(sub) for value in params.values() for sub in _jaxprs(value)]
    if name == "cond":
        return max(inner, default=0)
    return sum(inner) * _repeats(name, params)


def _repeats(name, params):
    if name == "scan":
        return params["length"]
    if name == "pallas_call":
        return int(np.prod(params["grid_mapping"].grid))
    if name == "shard_map":  # the jaxpr inside is one device's
        return math.prod(params["mesh"].shape.values())
    return 1


def _jaxprs(value):
    for item in value if isinstance(value, tuple | list) else (value,):
        jaxpr = getattr(item, "jaxpr", item)
        if hasattr(jaxpr, "eqns"):
            yield jaxpr
