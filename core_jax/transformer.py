"""The Transformer block and the stack of them, once for every family.

Axes: B batch, T positions, D width, H heads, K width of a head, F width of the MLP.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from core_jax.attention import attend, attend_joint, attention_weights, choose, visible
from core_jax.config import TransformerConfig
from core_jax.dropout import drop_rows, drop_units
from core_jax.gelu import exact_gelu
from core_jax.matmul import add_bias, matmul
from core_jax.sharding import BATCH_AXES, constrain, target_platform
from core_jax.splash_attention import ATTENTION_NAME

Hidden = Float[Array, "B T D"]
Segments = Int[Array, "B T"]

_keep_attention = jax.checkpoint_policies.save_only_these_names(ATTENTION_NAME)
REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, _keep_attention
    ),
    "full": jax.checkpoint_policies.nothing_saveable,
}
# A loop keeps all that its body's backward pass asks for, in arrays over all layers, such as six arrays for one GELU.
# In an unrolled stack the compiler computes such elementwise results again by itself; in a loop it must be told to.
SCAN_KEEPS = jax.checkpoint_policies.save_from_both_policies(jax.checkpoint_policies.dots_saveable, _keep_attention)


def compute_dtype(config: TransformerConfig) -> jnp.dtype:
    """The type of computation: as configured, or bfloat16 on accelerators and float32 on CPU."""
    if config.dtype == "auto":
        return jnp.dtype(jnp.float32 if target_platform() == "cpu" else jnp.bfloat16)
    return jnp.dtype(config.dtype)


def initializer(config: TransformerConfig) -> jax.nn.initializers.Initializer:
    """Normal cut off at two standard deviations and not rescaled, as in the original BERT; or Xavier's uniform."""
    if config.initializer == "xavier":
        return nn.initializers.xavier_uniform()
    return nn.initializers.truncated_normal(config.initializer_range)


def layer_norm(config: TransformerConfig, name: str) -> nn.LayerNorm:
    """LayerNorm with float32 statistics."""
    return nn.LayerNorm(config.norm_epsilon, dtype=compute_dtype(config), use_fast_variance=False, name=name)


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
    """GELU, exact or by tanh. Source: Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415"""
    if config.gelu == "erf" and target_platform() == "cpu":
        return exact_gelu(x)
    return nn.gelu(x, approximate=config.gelu == "tanh")


class HeadProjection(nn.Module):
    """The parameters of a linear layer from the width into heads, or from heads back to the width."""

    config: TransformerConfig
    merges: bool = False  # from heads back

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """Kernel D H K and bias H K; of a merging one H K D and D."""
        config, width = self.config, self.config.width
        heads = (config.heads, width // config.heads)
        shape = (*heads, width) if self.merges else (width, *heads)

        def init(key, shape, dtype):  # drawn flat: the same numbers, however many heads
            return initializer(config)(key, (width, width), dtype).reshape(shape)

        kernel = self.param("kernel", init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (width,) if self.merges else heads, jnp.float32)
        return kernel.astype(compute_dtype(config)), bias.astype(compute_dtype(config))


def linear(x: Float[Array, "..."], kernel: Float[Array, "..."], bias: Float[Array, "..."]) -> Float[Array, "..."]:
    """A linear layer whose kernel and bias are flattened: as one flat product it needs no transposes around it."""
    return add_bias(matmul(x, kernel.reshape(x.shape[-1], -1)), bias.reshape(-1))


class Attention(nn.Module):
    """Multi-head self-attention."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: Hidden, segments: Segments | None, train: bool) -> Hidden:
        """Mixes the positions of each segment."""
        config, shape = self.config, (*x.shape[:2], self.config.heads, -1)
        x = x.astype(compute_dtype(config))
        drops = train and config.attention_dropout > 0
        dropout: dict[str, Any] = {
            "dropout_rate": config.attention_dropout,
            "dropout_key": self.make_rng("dropout") if drops else None,
        }
        projections = [HeadProjection(config, name=name)() for name in ("query", "key", "value")]
        implementation = choose(config.attention, x.shape[1], config.width // config.heads, x.dtype, drops=drops)
        is_asked = self.is_mutable_collection("intermediates")  # who looks at whom
        if implementation == "fused" and not config.qk_norm and not is_asked:  # one product for all: x is read once
            kernel, bias = (jnp.stack(parts, axis=-2) for parts in zip(*projections, strict=True))  # D H 3 K, H 3 K
            mixed = attend_joint(linear(x, kernel, bias).reshape(shape), segments, **dropout)
            # Without this the compiler for TPU copies the kernel's output to another layout, twice.
            mixed = jax.lax.optimization_barrier(mixed)
        else:
            query, key, value = (linear(x, *parts).reshape(shape) for parts in projections)
            if config.qk_norm:
                query, key = layer_norm(config, "query_norm")(query), layer_norm(config, "key_norm")(key)
            if is_asked:
                mask = visible(x.shape[1], x.shape[1], segments, segments, causal=False)
                self.sow("intermediates", "attention_weights", attention_weights(query, key, mask))
            both = {"query_segments": segments, "key_segments": segments}
            mixed = attend(query, key, value, **both, **dropout, implementation=implementation)
        mixed = checkpoint_name(mixed.reshape(x.shape), ATTENTION_NAME)
        return linear(mixed, *HeadProjection(config, merges=True, name="out")())


class CrossAttention(nn.Module):
    """Multi-head attention of some positions to others."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        others: Float[Array, "B S D"],
        segments: Segments | None = None,
        other_segments: Int[Array, "B S"] | None = None,
    ) -> Hidden:
        """A mean of `others`, of those of its own segment where there are segments, for each position of `x`."""
        config, dtype = self.config, compute_dtype(self.config)
        heads = lambda y: (*y.shape[:2], config.heads, -1)  # noqa: E731
        sources = {"query": x.astype(dtype), "key": others.astype(dtype), "value": others.astype(dtype)}
        query, key, value = (
            linear(y, *HeadProjection(config, name=name)()).reshape(heads(y)) for name, y in sources.items()
        )
        mixed = attend(
            query, key, value, query_segments=segments, key_segments=other_segments, implementation="xla"
        ).reshape(x.shape)
        return linear(mixed, *HeadProjection(config, merges=True, name="out")())


class Mlp(nn.Module):
    """Two linear layers with GELU between."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: Hidden) -> Hidden:
        """Transforms each position by itself."""
        hidden = gelu(self.config, dense(self.config, self.config.mlp_width, "up")(x))
        return dense(self.config, self.config.width, "down")(hidden)


class Block(nn.Module):
    """Attention, then MLP, each a residual branch.

    Source: post-norm as in Vaswani et al. 2017 and Devlin et al. 2018; pre-norm as in Dosovitskiy et al. 2020;
      LayerScale from Touvron et al. 2021, https://arxiv.org/abs/2103.17239; stochastic depth from Huang et al. 2016,
      https://arxiv.org/abs/1603.09382
    """

    config: TransformerConfig

    @nn.compact
    def __call__(
        self, x: Hidden, segments: Segments | None, train: bool, depth_rate: Float[Array, ""] | None = None
    ) -> Hidden:
        """One layer; shapes stay as they are. `depth_rate` is its probability of stochastic depth."""
        config = self.config
        attention, mlp = Attention(config, name="attention"), Mlp(config, name="mlp")

        def branch(y, name):
            if config.layer_scale:
                scale = self.param(name, nn.initializers.constant(config.layer_scale), (config.width,))
                y = y * scale.astype(y.dtype)[None, None]
            if train and config.dropout:
                y = drop_units(y, self.make_rng("dropout"), config.dropout)
            return y if depth_rate is None else drop_rows(y, self.make_rng("dropout"), depth_rate)

        def residual(x, function, norm, scale):
            inner = lambda y: branch(function(y), scale)  # noqa: E731
            x = x + inner(norm(x)) if config.norm == "pre" else norm(x + inner(x))
            return constrain(x, BATCH_AXES, None, None)

        mix = lambda y: attention(y, segments, train)  # noqa: E731
        x = residual(x, mix, layer_norm(config, "attention_norm"), "attention_scale")
        return residual(x, mlp, layer_norm(config, "mlp_norm"), "mlp_scale")


class Stack(nn.Module):
    """`depth` blocks, unrolled (`block_0`, `block_1`, ...) or scanned (`blocks`, parameters stacked on axis 0)."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: Hidden, segments: Segments | None = None, *, train: bool = False) -> Hidden:
        """Runs all blocks; with pre-norm a last LayerNorm follows."""
        config = self.config
        block, policy = Block, REMAT_POLICIES.get(config.remat, SCAN_KEEPS if config.scan_layers else None)
        if policy is not None:
            # inside a scan nothing can be merged across layers anyway, and the barriers would only cost
            block = nn.remat(Block, static_argnums=(3,), policy=policy, prevent_cse=not config.scan_layers)
        drops = train and config.stochastic_depth > 0
        rates = jnp.linspace(0.0, config.stochastic_depth, config.depth) if drops else None
        if config.scan_layers:
            layers = nn.scan(
                lambda block, x, rate: (block(x, segments, train, rate), None),
                variable_axes={"params": 0, "intermediates": 0},
                split_rngs={"params": True, "dropout": True},
                length=config.depth,
            )
            x, _ = layers(block(config, name="blocks"), x, rates)
        else:
            for i in range(config.depth):
                x = block(config, name=f"block_{i}")(x, segments, train, None if rates is None else rates[i])
        return layer_norm(config, "final_norm")(x) if config.norm == "pre" else x


def stack_layers(stack: dict) -> dict:
    """Parameters of an unrolled Stack -> those of a scanned one: `block_0`, `block_1`, ... become `blocks`."""
    depth = sum(name.startswith("block_") for name in stack)
    layers = [stack[f"block_{i}"] for i in range(depth)]
    rest = {name: value for name, value in stack.items() if not name.startswith("block_")}
    return rest | {"blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)}


def unstack_layers(stack: dict) -> dict:
    """Parameters of a scanned Stack -> those of an unrolled one; the inverse of `stack_layers`."""
    depth = jax.tree.leaves(stack["blocks"])[0].shape[0]
    rest = {name: value for name, value in stack.items() if name != "blocks"}
    return rest | {f"block_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], stack["blocks"]) for i in range(depth)}
