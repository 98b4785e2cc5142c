"""Products in bfloat16, on CPUs in the form that their bfloat16 instructions are used for.

Processors with AVX-512 BF16 multiply bfloat16 at twice the speed of float32. XLA has kernels for that, but takes them
only for row-major bfloat16 factors whose product is asked for in float32; of any other form it turns both factors to
float32 first. Here the products of the forward and of the backward pass are put into that form.

Axes: M, K, N of a product of matrices.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from core_jax.sharding import target_platform


def matmul(x: Float[Array, "*M K"], kernel: Float[Array, "..."], *, transposed: bool = False) -> Float[Array, "*M N"]:
    """The product of vectors and a kernel of the same dtype.

    Args:
      x: the vectors.
      kernel: K N, or, `transposed`, N K.
      transposed: the kernel's last axis is the one that is summed over.
    Returns:
      The product, in the dtype of `x`.
    """
    if not wants_float32_sums(x.dtype):
        return jnp.matmul(x, kernel.T if transposed else kernel)
    flat = _rounded_product(x.reshape(-1, x.shape[-1]), kernel, transposed)
    return flat.reshape(*x.shape[:-1], flat.shape[-1])


def dense_product(x: Float[Array, "*M K"], kernel: Float[Array, "K N"], dimensions: Any, **options: Any) -> Any:
    """`matmul` as the `dot_general` of a `flax.linen.Dense`, which says the same dimensions every time."""
    del dimensions, options
    return matmul(x, kernel)


def wants_float32_sums(dtype: DTypeLike) -> bool:
    """Whether products of this dtype are computed in the special form: bfloat16 on a single CPU device.

    On several the form would not do: its flattened copies cannot be divided.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return dtype == jnp.bfloat16 and target_platform() == "cpu" and (mesh.empty or mesh.size == 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _rounded_product(x, kernel, transposed):
    return _multiply(x, kernel, 1 if transposed else 0)


def _forward(x, kernel, transposed):
    return _rounded_product(x, kernel, transposed), (x, kernel)


def _backward(transposed, saved, gradient):
    x, kernel = saved
    by_kernel = (gradient, x) if transposed else (x, gradient)
    return _multiply(gradient, kernel, 0 if transposed else 1), _multiply(_transpose(by_kernel[0]), by_kernel[1], 0)


_rounded_product.defvjp(_forward, _backward)


def _multiply(left, right, axis):
    """The product over the last axis of `left` and the given one of `right`, rounded to their dtype."""
    # Without the barriers XLA moves transposes into the product, and then has no kernel for it at all.
    left, right = jax.lax.optimization_barrier((left, right))
    product = jax.lax.dot_general(left, right, (((1,), (axis,)), ((), ())), preferred_element_type=jnp.float32)
    return jax.lax.optimization_barrier(product).astype(left.dtype)


def _transpose(x):
    # A plain transpose would be another view of the same memory, and the product would not be of row-major factors.
    return jax.lax.optimization_barrier(x.T.reshape(-1)).reshape(x.shape[::-1])
