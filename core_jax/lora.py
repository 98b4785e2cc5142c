"""LoRA: chosen kernels change by a product of two thin matrices alone, which is all that the optimizer remembers.

It is a transformation of gradients, so that it serves every model as it is. With W = W0 + s A B, the gradients of A and
B follow from that of W; an inner optimizer moves A and B, and W moves by s (A' B' - A B). The parameters are therefore
the merged ones at every step: they are scored, saved, exported and used like any others.

Axes: L scanned layers, I inputs of a kernel, O its outputs, R rank.
Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685
"""

import math
import re
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from core_jax.config import OptimizerConfig, require
from core_jax.errors import UserError
from core_jax.sharding import by_path, path_name


class Factors(NamedTuple):
    """The two matrices of a kernel. Fields are Any: shapes and shardings stand there too."""

    lora_down: Any  # A, Float[Array, "*L I R"]: random at first
    lora_up: Any  # B, Float[Array, "*L R O"]: zero at first, so that the kernel is


class LoraState(NamedTuple):
    """The memory of LoRA; kernels and other parameters go by their paths."""

    factors: dict[str, Factors]
    inner: PyTree  # state of the optimizer of these, and of what is trained whole


def lora(inner: optax.GradientTransformation, config: OptimizerConfig) -> optax.GradientTransformation:
    """Trains two thin matrices for each chosen kernel, and some parameters whole; all else stays as it is.

    Args:
      inner: the optimizer of the matrices and of what is trained whole.
      config: rank, scale, and which parameters.
    Returns:
      A transformation of the gradient of all parameters. What it does not train has no part in the gradient's norm.
    Raises:
      UserError: when it sees the parameters: no kernel matches, or one is of no known shape.
    """
    scale = config.lora_alpha / config.lora_rank

    def init(params: Any) -> LoraState:
        leaves = by_path(params)
        factors = {name: _fresh(name, leaves[name], config.lora_rank) for name in lora_targets(params, config)}
        return LoraState(factors, inner.init(factors | _whole(leaves, factors, config)))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, LoraState]:
        assert params is not None
        gradients, leaves, factors = by_path(updates), by_path(params), state.factors
        wanted = {name: _gradient(name, gradients[name], pair, scale) for name, pair in factors.items()}
        wanted |= _whole(gradients, factors, config)
        trained = factors | _whole(leaves, factors, config)
        moves: Any
        moves, memory = inner.update(wanted, state.inner, trained)
        after = {name: jax.tree.map(jnp.add, pair, moves[name]) for name, pair in factors.items()}

        def move(path: Any, leaf: Array) -> Array:
            name = path_name(path)
            if name in factors:
                difference = product(after[name]) - product(factors[name])
                return (scale * difference).reshape(leaf.shape).astype(leaf.dtype)
            return moves.get(name, jnp.zeros_like(leaf))

        return jax.tree_util.tree_map_with_path(move, updates), LoraState(after, memory)

    return optax.GradientTransformation(init, update)


def lora_targets(params: PyTree, config: OptimizerConfig) -> list[str]:
    """The paths of the kernels that get the matrices.

    Raises:
      UserError: there are none, or one of no known shape.
    """
    shapes = {name: leaf.shape for name, leaf in by_path(params).items()}
    found = [name for name in shapes if name.endswith("/kernel") and re.search(config.lora_targets, name)]
    kernels = [name for name in shapes if name.endswith("/kernel")]
    require(
        bool(found),
        f"--lora_targets={config.lora_targets} matches no kernel; there are {', '.join(kernels[:3])}, ..., "
        f"{kernels[-1]}",
    )
    for name in found:
        _sizes(name, shapes[name])
    return found


def describe_trained(params: PyTree, config: OptimizerConfig) -> str:
    """What LoRA trains, in words; nothing where it is off."""
    if not config.lora_rank:
        return ""
    thin, whole = trained_sizes(params, config)
    return f"; LoRA of rank {config.lora_rank} trains {thin:,} in thin matrices, and {whole:,} whole"


def trained_sizes(params: PyTree, config: OptimizerConfig) -> tuple[int, int]:
    """How many numbers LoRA trains: in the thin matrices, and in parameters that are trained whole."""
    leaves, targets = by_path(params), lora_targets(params, config)
    pairs = (_sizes(name, leaves[name].shape) for name in targets)
    thin = sum(layers * config.lora_rank * (inputs + outputs) for layers, inputs, outputs in pairs)
    return thin, sum(leaf.size for leaf in _whole(leaves, targets, config).values())


def product(factors: Factors) -> Float[Array, "*L I O"]:
    """A B, of each layer where they are scanned."""
    return jnp.einsum("...ir,...ro->...io", factors.lora_down, factors.lora_up)


def _whole(leaves, factors, config):
    """What is trained whole."""
    return {name: leaf for name, leaf in leaves.items() if name not in factors and re.search(config.lora_whole, name)}


def _gradient(name, gradient, factors, scale):
    """Of the two matrices, from that of the kernel: by the product rule."""
    layers, inputs, outputs = _sizes(name, gradient.shape)
    matrix = gradient.reshape(*_front(name, layers), inputs, outputs)
    down = jnp.einsum("...io,...ro->...ir", matrix, factors.lora_up)
    up = jnp.einsum("...ir,...io->...ro", factors.lora_down, matrix)
    return Factors(scale * down, scale * up)


def _fresh(name, kernel, rank):
    """A uniform, as a linear layer of the authors' library starts; B zero.

    Their randomness is that of the path alone: what differs between runs of other seeds are heads, batches, dropout.

    Source: https://github.com/microsoft/LoRA (loralib/layers.py)
    """
    layers, inputs, outputs = _sizes(name, kernel.shape)
    front, key = _front(name, layers), jax.random.key(zlib.crc32(name.encode()))
    bound = 1 / math.sqrt(inputs)
    down = jax.random.uniform(key, (*front, inputs, rank), jnp.float32, -bound, bound)
    return Factors(down, jnp.zeros((*front, rank, outputs), jnp.float32))


def _front(name: str, layers: int) -> Sequence[int]:
    return (layers,) if _is_scanned(name) else ()


def _is_scanned(name: str) -> bool:
    return "blocks/" in name


def _sizes(name, shape):
    """Layers, inputs and outputs of a kernel: heads are an axis of their own among either."""
    layers, *rest = shape if _is_scanned(name) else (1, *shape)
    if len(rest) not in (2, 3):
        raise UserError(
            f"{name} of shape {tuple(shape)} is no linear layer, to which LoRA could add a product of two matrices; "
            "choose others by --lora_targets, such as --lora_targets=attention"
        )
    inputs = rest[:2] if len(rest) == 3 and name.endswith("out/kernel") else rest[:1]
    return layers, math.prod(inputs), math.prod(rest) // math.prod(inputs)
