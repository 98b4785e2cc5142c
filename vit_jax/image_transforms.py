"""From a picture to what the model sees of it.

Axes: H x W pixels, C channels.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32
from PIL import Image

from vit_jax.images_config import ImagesConfig

MODES = {1: "L", 3: "RGB"}
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class View(NamedTuple):
    """The size of all images that the model sees."""

    height: int
    width: int
    channels: int  # 3 (red, green, blue) or 1 (grey)


def training_image(
    image: Image.Image, images: ImagesConfig, view: View, random: np.random.Generator
) -> Float32[np.ndarray, "H W C"]:
    """What is seen of a picture in training.

    Args:
      image: the picture.
      images: says how it is cut and changed.
      view: size of the result.
      random: of this example.
    """
    return evaluation_image(image, images, view)


def evaluation_image(image: Image.Image, images: ImagesConfig, view: View) -> Float32[np.ndarray, "H W C"]:
    """What is seen of a picture when it is scored; arguments as for `training_image`."""
    image = image.convert(MODES[view.channels]).resize((view.width, view.height), RESAMPLING[images.interpolation])
    pixels = np.asarray(image).reshape(view)
    return pixels * np.float32(2 / 255) - np.float32(1)
