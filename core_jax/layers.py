"""The layers that every model is made of: linear, LayerNorm, GELU, in the type of computation."""

import math

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
    """Parameters with kernels and tables in the type of computation, so that no pass converts them again."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if leaf.ndim > 1 else leaf, params)


def initializer(config: TransformerConfig, *, ends_branch: bool = False) -> jax.nn.initializers.Initializer:
    """What kernels and tables start from.

    Args:
      config: says which: a normal cut off at two standard deviations and not rescaled, as in the original BERT;
        Xavier's uniform; or as in GPT-2 a whole normal.
      ends_branch: whether it is the last kernel of a residual branch; GPT-2 divides those by the root of their number.
    Source: Radford et al. 2019, section 2.3, https://openai.com/index/better-language-models
    """
    if config.initializer == "xavier":
        return nn.initializers.xavier_uniform()
    if config.initializer == "gpt2":
        return nn.initializers.normal(config.initializer_range / (math.sqrt(2 * config.depth) if ends_branch else 1))
    return nn.initializers.truncated_normal(config.initializer_range)


def layer_norm(config: TransformerConfig, name: str) -> nn.LayerNorm:
    """LayerNorm with float32 statistics."""
    return nn.LayerNorm(config.norm_epsilon, dtype=compute_dtype(config), use_fast_variance=False, name=name)


def linear(x: Float[Array, "..."], kernel: Float[Array, "..."], bias: Float[Array, "..."]) -> Float[Array, "..."]:
    """A linear layer whose kernel and bias are flattened: as one flat product it needs no transposes around it."""
    return add_bias(matmul(x, kernel.reshape(x.shape[-1], -1)), bias.reshape(-1))


class Dense(nn.Module):
    """A linear layer: kernel from `initializer` unless another is given, bias constant at first."""

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
