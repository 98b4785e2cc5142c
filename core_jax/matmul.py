"""Products in bfloat16, on CPUs in the form that their bfloat16 instructions are used for.

Processors with AVX-512 BF16 multiply bfloat16 at twice the speed of float32. XLA has kernels for that, but takes them
only for row-major bfloat16 factors whose product is asked for in float32; of any other form it turns both factors to
float32 first. Here the products of the forward and of the backward pass are put into that form.

Axes: B batch, M, K, N of a product of matrices.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from core_jax.sharding import target_platform


def matmul(x: Float[Array, "..."], kernel: Float[Array, "..."], *, transposed: bool = False) -> Float[Array, "..."]:
    """The product of vectors and a kernel of the same dtype.

    Args:
      x: the vectors, ... K.
      kernel: K N, or, `transposed`, N K.
      transposed: whether the kernel's last axis is the one that is summed over.
    Returns:
      ... N, in the dtype of `x`.
    """
    if not wants_float32_sums(x.dtype):
        return jnp.matmul(x, kernel.T if transposed else kernel)
    flat: Any = _rounded_product(x.reshape(-1, x.shape[-1]), kernel, transposed)
    return flat.reshape(*x.shape[:-1], flat.shape[-1])


def dense_product(x: Float[Array, "..."], kernel: Float[Array, "K N"], dimensions: Any, **options: Any) -> Any:
    """`matmul` as the `dot_general` of a `flax.linen.Dense`, whose dimensions are always the same."""
    del dimensions, options
    return matmul(x, kernel)


def wants_float32_sums(dtype: DTypeLike) -> bool:
    """Whether products of this dtype are computed in the special form: of bfloat16 on a single CPU device.

    On a mesh the compiler could not divide the copies that the form is made of.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return dtype == jnp.bfloat16 and target_platform() == "cpu" and (mesh.empty or mesh.size == 1)


def float32_product(left: Float[Array, "*B M K"], right: Float[Array, "..."], axis: int) -> Float[Array, "*B M N"]:
    """The product of row-major factors, summed up and returned in float32.

    Args:
      left: *B M K, summed over its last axis.
      right: *B K N or *B N K.
      axis: of `right` that is summed over: -2 or -1.
    """
    # Without the barriers XLA moves transposes into the product, and then has no kernel for it at all.
    left, right = jax.lax.optimization_barrier((left, right))
    batch = tuple(range(left.ndim - 2))
    axes = (((left.ndim - 1,), (right.ndim + axis,)), (batch, batch))
    product = jax.lax.dot_general(left, right, axes, preferred_element_type=jnp.float32)
    return jax.lax.optimization_barrier(product)


def row_major(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """What a transpose gave, written out: else it is a view of the same memory, and no row-major factor."""
    return jax.lax.optimization_barrier(x.reshape(-1)).reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _rounded_product(x, kernel, transposed):
    return float32_product(x, kernel, -1 if transposed else -2).astype(x.dtype)


def _forward(x, kernel, transposed):
    return _rounded_product(x, kernel, transposed), (x, kernel)


def _backward(transposed, saved, gradient):
    x, kernel = saved
    left, right = (gradient, x) if transposed else (x, gradient)
    of_x = float32_product(gradient, kernel, -2 if transposed else -1)
    of_kernel = float32_product(row_major(left.T), right, -2)
    return of_x.astype(x.dtype), of_kernel.astype(kernel.dtype)


_rounded_product.defvjp(_forward, _backward)
