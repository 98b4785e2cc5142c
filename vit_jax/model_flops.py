"""Operations that training ViT needs.

Axes: B images, T positions, D width, K classes.
"""

from typing import Any

import jax.numpy as jnp

from core_jax.flops import TRAINING, Count, for_each, stack_flops
from core_jax.heads import segment_members
from core_jax.losses import Ratio
from vit_jax.config import VitConfig
from vit_jax.resnet import WIDENING

PATCHES = 2  # times a forward pass, of what reads the image: nobody asks for the gradient of the pixels


def step_flops(config: VitConfig, images: Count, classes: int) -> Count:
    """Operations of the matrix products of a step on images of the configuration's size.

    Args:
      config: of the model.
      images: of the batch.
      classes: of the classifier.
    Returns:
      As `packed_flops`.
    """
    tokens, patches = config.tokens, config.grid[0] * config.grid[1]
    return packed_flops(config, images, images * patches, images * tokens, images * tokens**2, classes)


def packed_flops(config: VitConfig, images: Count, patches: Count, tokens: Count, seen: Count, classes: int) -> Count:
    """Operations of the matrix products of a step, forward and backward, without remat.

    Args:
      config: of the model.
      images: of the batch.
      patches: of all of them together.
      tokens: that the encoder computes.
      seen: tokens that each of them looks at, added up.
      classes: of the classifier.
    Returns:
      The number. Elementwise operations are none, and neither is interpolating positions.
    """
    width = config.width
    cut = 2 * config.patch_size**2 * cut_channels(config) * width  # of a patch
    stack = stack_flops(config, tokens, seen)
    head, read = 2 * width * classes + (2 * width**2 if config.representation else 0), 0
    if config.pooling == "attention":
        # Of an image: query and result of one position, then the MLP of it. Of a patch: key and value, their products.
        head += 4 * width**2 + 4 * width * config.mlp_width
        read = 4 * width**2 + 4 * width
    root, units = stem_flops(config) if config.stem else (0, 0)
    of_image = PATCHES * root + TRAINING * (units + head)
    of_patch = (TRAINING if config.stem else PATCHES) * cut + TRAINING * read
    return TRAINING * stack + for_each(images, of_image) + for_each(patches, of_patch)


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

    A packed image needs what it would alone: its tokens look at each other, and at no others.

    Args:
      config: of the model.
      batch: of images, with weights; or of `PackedImages`.
      classes: of the classifier.
    Returns:
      (operations of a step that are needed, those of all rows: of packed ones as `whole_flops` counts them).
    """
    counted = batch["weights"]["classes"] > 0
    images = jnp.sum(counted, dtype=jnp.float32)
    if "patches" not in batch:
        needed = step_flops(config, images, classes)
        return jnp.asarray(needed, jnp.float32), jnp.float32(step_flops(config, counted.shape[0], classes))
    tokens = jnp.sum(segment_members(batch["segments"], counted.shape[1]), axis=2) * counted  # of each image
    patches = jnp.maximum(tokens - (config.tokens - config.grid[0] * config.grid[1]), 0)
    in_all = [jnp.sum(count, dtype=jnp.float32) for count in (patches, tokens, tokens**2)]
    needed = packed_flops(config, images, in_all[0], in_all[1], in_all[2], classes)
    return jnp.asarray(needed, jnp.float32), jnp.float32(whole_flops(config, batch, classes))


def whole_flops(config: VitConfig, batch: dict[str, Any], classes: int) -> int:
    """Operations of a step on packed rows that are one image each, and full.

    Args:
      config: of the model.
      batch: of `PackedImages`, or its shapes.
      classes: of the classifier.
    """
    rows, length = batch["segments"].shape
    return int(packed_flops(config, rows, rows * length, rows * length, rows * length**2, classes))
