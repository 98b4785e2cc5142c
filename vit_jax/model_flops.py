"""Operations that training ViT needs.

Axes: B images, T positions, D width, K classes.
"""

from typing import Any

import jax.numpy as jnp

from core_jax.flops import TRAINING, Count, for_each, stack_flops
from core_jax.losses import Ratio
from vit_jax.config import VitConfig
from vit_jax.resnet import WIDENING

PATCHES = 2  # times a forward pass, of what reads the image: nobody asks for the gradient of the pixels


def step_flops(config: VitConfig, images: Count, classes: int) -> Count:
    """Operations of the matrix products of a step, forward and backward, without remat.

    Args:
      config: of the model.
      images: of the batch.
      classes: of the classifier.
    Returns:
      The number. Elementwise operations are none.
    """
    width, tokens, patches = config.width, config.tokens, config.grid[0] * config.grid[1]
    cut = 2 * patches * config.patch_size**2 * cut_channels(config) * width
    stack = stack_flops(config, images * tokens, images * tokens**2)
    head = 2 * width * classes + (2 * width**2 if config.representation else 0)
    if config.pooling == "attention":
        # query and result of one position, keys and values of all patches, their products, then the MLP of one position
        head += 2 * width**2 * (2 + 2 * patches) + 4 * width * patches + 4 * width * config.mlp_width
    root, units = stem_flops(config) if config.stem else (cut, 0)
    once, thrice = PATCHES * root, TRAINING * (units + head + (cut if config.stem else 0))
    return TRAINING * stack + for_each(images, once + thrice)


def cut_channels(config: VitConfig) -> int:
    """Channels of what patches are cut from: the image, or the feature map of the stem."""
    if not config.stem:
        return config.channels
    return config.stem_width * (WIDENING * 2 ** (len(config.stem_stages) - 1) if config.stem_stages else 1)


def stem_flops(config: VitConfig) -> tuple[int, int]:
    """Operations of the forward pass of the stem for one image: of its first convolution, and of all its units.

    Args:
      config: of the model; it has a stem.
    """

    def places(stride: int) -> int:
        return -(-config.height // stride) * -(-config.width_of_image // stride)

    root, units, inputs, stride = 2 * 7**2 * config.channels * config.stem_width * places(2), 0, config.stem_width, 4
    for stage, count in enumerate(config.stem_stages):
        middle = config.stem_width * 2**stage
        for unit in range(count):
            before, stride = places(stride), stride * 2 if stage and not unit else stride
            projection = 0 if unit else inputs * WIDENING * middle
            after = 3**2 * middle**2 + middle * WIDENING * middle + projection
            units += 2 * (inputs * middle * before + after * places(stride))
            inputs = WIDENING * middle
    return root, units


def useful_flops(config: VitConfig, batch: dict[str, Any], classes: int) -> Ratio:
    """What the images of a batch that have a weight need, and what all its rows would.

    Args:
      config: of the model.
      batch: of images, with weights.
      classes: of the classifier.
    """
    weights = batch["weights"]["classes"]
    needed = step_flops(config, jnp.sum(weights > 0, dtype=jnp.float32), classes)
    return jnp.asarray(needed, jnp.float32), jnp.float32(step_flops(config, weights.shape[0], classes))
