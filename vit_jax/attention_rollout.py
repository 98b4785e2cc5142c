"""Where a ViT looks: attention rolled out over all layers.

Axes: B images, L layers, H heads, T positions.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from core_jax.config import TransformerConfig
from vit_jax.model import VitForClassification


def stacked_weights(layers: Any, config: TransformerConfig) -> Float[Array, "L B H T T"]:
    """The attention weights of a stack of blocks.

    Args:
      layers: the intermediates of a stack of blocks.
      config: of the stack.
    """
    if config.scan_layers:
        return layers["blocks"]["attention"]["attention_weights"][0]
    names = [f"block_{number}" for number in range(config.depth)]
    return jnp.stack([layers[name]["attention"]["attention_weights"][0] for name in names])


def roll_out(weights: Float[Array, "L B H T T"]) -> Float[Array, "B T T"]:
    """How much of each position (last axis) has flowed into each other: half of each layer is its residual branch."""
    identity = jnp.eye(weights.shape[-1])[None]
    flow = identity
    for layer in jnp.mean(weights, axis=2):
        flow = (0.5 * layer + 0.5 * identity) @ flow
    return flow


def layer_weights(
    model: VitForClassification, params: PyTree, images: Float[Array, "B height width C"]
) -> Float[Array, "L B H T T"]:
    """How much each position of an image looks at each other, in every layer and head."""
    _, found = model.apply({"params": params}, images, mutable=["intermediates"])
    layers: Any = found["intermediates"]["vit"]["encoder"]
    return stacked_weights(layers, model.config)


def attention_rollout(
    model: VitForClassification, params: PyTree, images: Float[Array, "B height width C"]
) -> Float[Array, "B rows columns"]:
    """How much each patch of an image has flowed into what stands for the image.

    Args:
      model: of the images' size.
      params: of it.
      images: as the model sees them.
    Returns:
      The part of each patch; all add up to 1, but for what flowed from the class token and registers. Where the mean
      of the patches stands for the image, or a query that attends to them, it is the mean over all patches.
    Source: Abnar and Zuidema 2020, section 3, https://arxiv.org/abs/2005.00928
    """
    config = model.config
    flow = roll_out(layer_weights(model, params, images))
    front = int(config.class_token) + config.registers
    reads = flow[:, 0] if config.pooling == "token" else jnp.mean(flow[:, front:], axis=1)
    return reads[:, front:].reshape(-1, *config.grid)
