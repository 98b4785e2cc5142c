"""The Transformer block and the stack of them, once for every family.

Axes: B batch, T positions, D width.
"""

import dataclasses
from typing import Any, overload

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from core_jax.config import TransformerConfig
from core_jax.dropout import drop_rows, drop_units
from core_jax.key_value_cache import KeysValues, KeyValueCache, LayerCache, add_places
from core_jax.layers import Dense, dense, gelu, initializer, layer_norm
from core_jax.multihead_attention import Attention, Bias, CrossAttention, Hidden, Others, Segments
from core_jax.relative_positions import RelativeBias
from core_jax.sharding import BATCH_AXES, constrain
from core_jax.splash_attention import ATTENTION_NAME

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


class Mlp(nn.Module):
    """Two linear layers with GELU between, whose output a gate may multiply.

    Source: gates from Shazeer 2020, https://arxiv.org/abs/2002.05202
    """

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: Hidden, train: bool = False) -> Hidden:
        """Transforms each position by itself."""
        config = self.config
        hidden = dense(config, config.mlp_width, "up")(x)
        if config.mlp_kind == "gated":
            hidden = gelu(config, dense(config, config.mlp_width, "gate")(x)) * hidden
        else:
            hidden = gelu(config, hidden)
        if train and config.mlp_dropout:
            hidden = drop_units(hidden, self.make_rng("dropout"), config.mlp_dropout)
        return Dense(config, config.width, initializer(config, ends_branch=True), name="down")(hidden)


class Block(nn.Module):
    """Attention, attention to others where there are any, then MLP, each a residual branch.

    Source: post-norm as in Vaswani et al. 2017 and Devlin et al. 2018; pre-norm as in Dosovitskiy et al. 2020;
      LayerScale from Touvron et al. 2021, https://arxiv.org/abs/2103.17239; stochastic depth from Huang et al. 2016,
      https://arxiv.org/abs/1603.09382
    """

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        x: Hidden,
        segments: Segments | None,
        train: bool,
        depth_rate: Float[Array, ""] | None = None,
        cache: LayerCache | None = None,
        others: Others | None = None,
        bias: Bias = None,
    ) -> Hidden | tuple[Hidden, KeysValues | None]:
        """One layer; shapes stay as they are.

        Args:
          x: hidden states.
          segments: tokens attend to those with the same number.
          train: whether dropout is on.
          depth_rate: the layer's probability of stochastic depth.
          cache: of the tokens before, and of the others that they looked at.
          others: what the tokens look at besides each other.
          bias: of relative positions, added to the logits of attention among the tokens.
        Returns:
          Hidden states; with a cache also all keys and values, the new ones included.
        """
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
            y, more = function(norm(x) if config.norm == "pre" else x)
            x = x + branch(y, scale) if config.norm == "pre" else norm(x + branch(y, scale))
            return constrain(x, BATCH_AXES, None, None), more

        mix = lambda y: attention(y, segments, train, cache, bias)  # noqa: E731
        x, kept = residual(x, mix, layer_norm(config, "attention_norm"), "attention_scale")
        if others is not None or (kept is not None and kept.other_keys is not None):
            cross, before = CrossAttention(config, _implementation(config), name="cross_attention"), cache
            look = lambda y: cross(y, others, segments, train, before)  # noqa: E731
            x, cache = residual(x, look, layer_norm(config, "cross_attention_norm"), "cross_attention_scale")
            if cache is not None and kept is not None:
                kept = kept._replace(other_keys=cache.before.other_keys, other_values=cache.before.other_values)
        x, _ = residual(x, lambda y: (mlp(y, train), None), layer_norm(config, "mlp_norm"), "mlp_scale")
        return x if cache is None else (x, kept)


class Stack(nn.Module):
    """`depth` blocks, unrolled (`block_0`, `block_1`, ...) or scanned (`blocks`, parameters stacked on axis 0)."""

    config: TransformerConfig

    @overload
    def __call__(
        self,
        x: Hidden,
        segments: Segments | None = None,
        *,
        train: bool = False,
        cache: None = None,
        others: Others | None = None,
    ) -> Hidden: ...

    @overload
    def __call__(
        self,
        x: Hidden,
        segments: Segments | None = None,
        *,
        train: bool = False,
        cache: KeyValueCache,
        others: Others | None = None,
    ) -> tuple[Hidden, KeyValueCache]: ...

    @nn.compact
    def __call__(
        self,
        x: Hidden,
        segments: Segments | None = None,
        *,
        train: bool = False,
        cache: KeyValueCache | None = None,
        others: Others | None = None,
    ) -> Hidden | tuple[Hidden, KeyValueCache]:
        """Runs all blocks; with pre-norm a last LayerNorm follows. Relative positions have one bias for all of them.

        Args:
          x: hidden states; with a cache, of new tokens alone.
          segments: tokens attend to those with the same number; padding has 0. By default all are of one.
          train: whether dropout is on.
          cache: of the tokens before, for a causal stack; that there is room for the new ones is not checked.
          others: what the tokens look at besides each other, in every layer. With a cache they are given once: it
            keeps their keys and values, which are used as long as no others come.
        Returns:
          Hidden states; with a cache also the cache with the new tokens in it.
        """
        config, rates, layers, places = self.config, _depth_rates(self.config, train), {}, ()
        if cache is not None:
            segments = jnp.ones(x.shape[:2], jnp.int32) if segments is None else segments
            if others is not None:
                cache = dataclasses.replace(cache, other_segments=others.segments)
            cache, *places = add_places(cache, segments)
            layers, places = cache.layers, (*places, cache.other_segments)
        bias = RelativeBias(config, name="relative")(x.shape[1], cache) if config.relative_buckets else None

        def run(block: Any, x, rate, before):
            if before is None:
                return block(x, segments, train, rate, None, others, bias), None
            return block(x, segments, train, rate, LayerCache(before, *places), others, bias)

        block, after = _block_class(config), {}
        if config.scan_layers:
            scanned = nn.scan(
                run,
                variable_axes={"params": 0, "intermediates": 0},
                split_rngs={"params": True, "dropout": True},
                length=config.depth,
            )
            x, after["blocks"] = scanned(block(config, name="blocks"), x, rates, layers.get("blocks"))
        else:
            for i, name in enumerate(f"block_{i}" for i in range(config.depth)):
                x, after[name] = run(block(config, name=name), x, None if rates is None else rates[i], layers.get(name))
        x = layer_norm(config, "final_norm")(x) if config.norm == "pre" else x
        return x if cache is None else (x, dataclasses.replace(cache, layers=after))


def _block_class(config):
    policy = REMAT_POLICIES.get(config.remat, SCAN_KEEPS if config.scan_layers else None)
    if policy is None:
        return Block
    # inside a scan nothing can be merged across layers anyway, and the barriers would only cost
    return nn.remat(Block, static_argnums=(3,), policy=policy, prevent_cse=not config.scan_layers)


def _implementation(config):
    """Of attention to others, which a kernel for positions among themselves cannot do."""
    return "auto" if config.attention == "fused" else config.attention


def _depth_rates(config, train):
    """Each layer's probability of stochastic depth; None where there is none."""
    drops = train and config.stochastic_depth > 0
    return jnp.linspace(0.0, config.stochastic_depth, config.depth) if drops else None


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
