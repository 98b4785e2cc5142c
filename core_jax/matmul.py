"""Products, on CPUs in the form that the compiler has its fast kernels for.

Processors with AVX-512 BF16 multiply bfloat16 at twice the speed of float32. XLA has kernels for that, but takes them
only for row-major bfloat16 factors whose product is asked for in float32; of any other form it turns both factors to
float32 first. Here the products of the forward and of the backward pass are put into that form; in float32 that of the
backward pass that gives the gradient of a kernel, which else gets a slower one.

Axes: B batch, M, K, N of a product of matrices.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from core_jax.sharding import target_platform

FEW = 32  # vectors: with more, a transposed kernel is no obstacle


def matmul(x: Float[Array, "..."], kernel: Float[Array, "..."], *, transposed: bool = False) -> Float[Array, "..."]:
    """The product of vectors and a kernel of the same dtype.

    Args:
      x: the vectors, ... K.
      kernel: K N, or, `transposed`, N K.
      transposed: whether the kernel's last axis is the one that is summed over.
    Returns:
      ... N, in the dtype of `x`.
    """
    if not _is_one_cpu() or x.dtype not in (jnp.bfloat16, jnp.float32):
        return jnp.matmul(x, kernel.T if transposed else kernel)
    flat: Any = _product(x.reshape(-1, x.shape[-1]), kernel, transposed)
    return flat.reshape(*x.shape[:-1], flat.shape[-1])


def add_bias(x: Float[Array, "..."], bias: Float[Array, " N"]) -> Float[Array, "..."]:
    """Vectors plus a bias of the same dtype; the gradient of the bias is a sum over all of them.

    Args:
      x: the vectors, ... N.
      bias: added to each.
    """
    if not wants_float32_sums(x.dtype):
        return x + bias.reshape(*(1,) * (x.ndim - 1), -1)
    return _biased(x, bias)


def wants_float32_sums(dtype: DTypeLike) -> bool:
    """Whether products of this dtype are computed in the special form: of bfloat16 on a single CPU device.

    On a mesh the compiler could not divide the copies that the form is made of.
    """
    return dtype == jnp.bfloat16 and _is_one_cpu()


def _is_one_cpu():
    mesh = jax.sharding.get_abstract_mesh()
    return target_platform() == "cpu" and (mesh.empty or mesh.size == 1)


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
def _product(x, kernel, transposed):
    return _multiply(x, kernel, transposed)


def _multiply(x, kernel, transposed):
    if transposed and len(x) <= FEW and x.dtype == jnp.float32:
        # Apart from what stands around it, or XLA computes a loop over scalars; and the large factor as it lies.
        return float32_product(kernel, row_major(x.T), -2).T
    if x.dtype == jnp.float32:
        return jnp.matmul(x, kernel.T if transposed else kernel)
    return float32_product(x, kernel, -1 if transposed else -2).astype(x.dtype)


def _forward(x, kernel, transposed):
    # Not `_product`: what keeps products for the backward pass must see one, or it is computed again there.
    return _multiply(x, kernel, transposed), (x, kernel)


def _backward(transposed, saved, gradient):
    x, kernel = saved
    left, right = (gradient, x) if transposed else (x, gradient)
    of_x = float32_product(gradient, kernel, -2 if transposed else -1)
    if left.shape[-1] > right.shape[-1]:  # transposes are slow: of the smaller factor, and of the product
        of_kernel = float32_product(row_major(right.T), left, -2).T
    else:
        of_kernel = float32_product(row_major(left.T), right, -2)
    return of_x.astype(x.dtype), of_kernel.astype(kernel.dtype)


_product.defvjp(_forward, _backward)


@jax.custom_vjp
def _biased(x, bias):
    return x + bias.reshape(*(1,) * (x.ndim - 1), -1)


def _biased_forward(x, bias):
    return _biased(x, bias), None


def _biased_backward(saved, gradient):
    del saved
    # XLA's sum of bfloat16 takes many times as long as that of float32, and without the barrier it would be one.
    wide = jax.lax.optimization_barrier(gradient.reshape(-1, gradient.shape[-1]).astype(jnp.float32))
    return gradient, jnp.sum(wide, axis=0).astype(gradient.dtype)


_biased.defvjp(_biased_forward, _biased_backward)
