"""The layers that every model is made of: linear, LayerNorm or RMSNorm, GELU, in the type of computation."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, PyTree

from core_jax.config import TransformerConfig
from core_jax.gelu import exact_gelu
from core_jax.matmul import add_bias, matmul
from core_jax.sharding import target_platform


def compute_dtype(config: TransformerConfig) -> jnp.dtype:
    """The type of computation: as configured, or bfloat16 on accelerators and float32 on CPU."""
    if config.dtype == "auto":
        return jnp.dtype(jnp.float32 if target_platform() == "cpu" else jnp.bfloat16)
    return jnp.dtype(config.dtype)


def in_compute_dtype(params: PyTree, dtype: DTypeLike) -> PyTree:
    """Parameters, or their shapes, with kernels and tables in the type of computation: no pass converts them again."""

    def convert(leaf: Any) -> Any:
        if leaf.ndim <= 1:
            return leaf
        return leaf.update(dtype=dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf.astype(dtype)

    return jax.tree.map(convert, params)


def initializer(config: TransformerConfig, *, ends_branch: bool = False) -> jax.nn.initializers.Initializer:
    """What kernels and tables start from.

    Args:
      config: says which: a normal cut off at two standard deviations and not rescaled, as in the original BERT;
        Xavier's uniform; as in GPT-2 a whole normal; or as in T5 one whose variance is 1 / inputs.
      ends_branch: whether it is the last kernel of a residual branch; GPT-2 divides those by the root of their number.
    Source: Radford et al. 2019, section 2.3, https://openai.com/index/better-language-models
    """
    if config.initializer == "xavier":
        return nn.initializers.xavier_uniform()
    if config.initializer == "gpt2":
        return nn.initializers.normal(config.initializer_range / (math.sqrt(2 * config.depth) if ends_branch else 1))
    if config.initializer == "t5":
        return nn.initializers.variance_scaling(1.0, "fan_in", "normal")
    return nn.initializers.truncated_normal(config.initializer_range)


def table_initializer(config: TransformerConfig, *, is_output: bool = False) -> jax.nn.initializers.Initializer:
    """What tables of vectors start from: as kernels do, but for T5, where they have a deviation of 1.

    Args:
      config: says which.
      is_output: whether a table is only multiplied with: that of T5 1.1 starts as a kernel does.
    """
    if config.initializer == "t5":
        return nn.initializers.normal(config.width**-0.5 if is_output else 1.0)
    return initializer(config)


def layer_norm(config: TransformerConfig, name: str) -> nn.LayerNorm | nn.RMSNorm:
    """LayerNorm with float32 statistics; or RMSNorm, Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467."""
    if config.norm_kind == "rms":
        return nn.RMSNorm(config.norm_epsilon, dtype=compute_dtype(config), name=name)
    return nn.LayerNorm(config.norm_epsilon, dtype=compute_dtype(config), use_fast_variance=False, name=name)


def linear(
    x: Float[Array, "..."], kernel: Float[Array, "..."], bias: Float[Array, "..."] | None = None
) -> Float[Array, "..."]:
    """A linear layer whose kernel and bias are flattened: as one flat product it needs no transposes around it."""
    product = matmul(x, kernel.reshape(x.shape[-1], -1))
    return product if bias is None else add_bias(product, bias.reshape(-1))


class Dense(nn.Module):
    """A linear layer: kernel from `initializer` unless another is given, bias, if there is one, constant at first."""

    config: TransformerConfig
    features: int
    kernel_init: jax.nn.initializers.Initializer | None = None
    bias: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Transforms the last axis."""
        dtype = compute_dtype(self.config)
        init = self.kernel_init or initializer(self.config)
        kernel = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
        if not self.config.use_bias:
            return linear(x.astype(dtype), kernel.astype(dtype))
        bias = self.param("bias", nn.initializers.constant(self.bias), (self.features,), jnp.float32)
        return linear(x.astype(dtype), kernel.astype(dtype), bias.astype(dtype))


def dense(config: TransformerConfig, features: int, name: str) -> Dense:
    """A linear layer of the model."""
    return Dense(config, features, name=name)


def gelu(config: TransformerConfig, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """GELU, exact or by tanh, or what a config has in its place.

    Source: Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415, section 2 of which has Swish as "SiLU" as well.
    """
    if config.gelu in ("relu", "swish"):
        return nn.relu(x) if config.gelu == "relu" else nn.swish(x)
    if config.gelu == "erf" and target_platform() == "cpu":
        return exact_gelu(x)
    return nn.gelu(x, approximate=config.gelu == "tanh")
