"""From a picture to what the model sees of it; all that is random is drawn from a generator that is handed in.

Axes: H x W pixels, C channels.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from numpy.typing import DTypeLike
from PIL import Image

from vit_jax.image_files import OpenedImage
from vit_jax.images_config import ImagesConfig
from vit_jax.normalization import normalised
from vit_jax.randaugment import randaugment

RESAMPLING = {  # with antialiasing, all but the first
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
LARGEST_RATIO = 4 / 3  # of the sides of a random part
SLENDER = 16  # sides' ratio up to which a picture is resized whole before its middle is cut out
TRIES = 10  # to find a random part that fits
ERASED_AREA = (0.02, 1 / 3)  # shares of an image
ERASED_RATIO = 1 / 0.3  # of the sides of what is erased, at most
Box = tuple[int, int, int, int]  # left, top, right, bottom
Bytes = UInt8[np.ndarray, "H W C"]


class View(NamedTuple):
    """The shape of an image that the model sees."""

    height: int
    width: int
    channels: int  # 3 (red, green, blue) or 1 (grey)


def training_image(
    opened: OpenedImage, images: ImagesConfig, shape: Callable[[int, int], View], random: np.random.Generator
) -> Bytes | Float32[np.ndarray, "H W C"]:
    """What is seen of a picture in training: cut, resized, moved, mirrored, changed, erased in part.

    Args:
      opened: the picture.
      images: says how it is cut and changed.
      shape: of the result, from the width and the height of what is cut out.
      random: of this example.
    Returns:
      Colours from 0 to 255, of the type `training_dtype`; float32 are normalised.
    Raises:
      BadImageError: the picture is damaged.
    """
    box = (0, 0, *opened.size)
    if images.crop == "inception":
        box = inception_box(*opened.size, images.least_area, random)
    view = shape(box[2] - box[0], box[3] - box[1])
    image = cut(opened, box, view, RESAMPLING[images.train_interpolation])
    if images.crop_padding:
        left, top = random.integers(-images.crop_padding, images.crop_padding, size=2, endpoint=True).tolist()
        image = image.crop((left, top, left + view.width, top + view.height))
    if random.random() < images.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if images.randaugment:
        count, strength, *spread = images.randaugment.split(",")
        image = randaugment(image, int(count), int(strength), random, *map(float, spread))
    if not images.random_erasing:
        return pixels_of(image, view)
    # By rows, since NumPy is slow over a last axis that is as short as channels are.
    rows = np.asarray(image).reshape(view.height, -1)
    pixels = np.asarray(normalised(rows, images.normalization, view.channels)).reshape(view)
    if random.random() < images.random_erasing:
        erase(pixels, random)
    return pixels


def training_dtype(images: ImagesConfig) -> DTypeLike:
    """Of images to train on: bytes, or float32 where noise is put into them, which bytes do not hold."""
    return np.float32 if images.random_erasing else np.uint8


def pixels_of(image: Image.Image, view: View) -> Bytes:
    """The colours of an image of the view's size, from 0 to 255."""
    return np.asarray(image).reshape(view)


def evaluation_image(opened: OpenedImage, images: ImagesConfig, view: View) -> Bytes:
    """What is seen of a picture when it is scored: resized, its middle cut out.

    Args:
      opened, images: as for `training_image`.
      view: shape of the result.
    Returns:
      Colours from 0 to 255.
    Raises:
      BadImageError: the picture is damaged.
    Source: the sizes and the middle are computed as torchvision's Resize and CenterCrop compute them.
    """
    image, _ = opened.decoded(view.channels)
    if images.eval_resize or images.eval_crop:
        image = _middle(image)
    width, height = size_before_crop(*image.size, images, view)
    image = image.resize((width, height), RESAMPLING[images.interpolation])
    left, top = round((width - view.width) / 2), round((height - view.height) / 2)
    return pixels_of(image.crop((left, top, left + view.width, top + view.height)), view)


def _middle(image: Image.Image) -> Image.Image:
    """The middle of a picture that is so slender that resizing all of it could fill the memory; of others, all."""
    (width, height), longest = image.size, SLENDER * min(image.size)
    left, top = max(width - longest, 0) // 2, max(height - longest, 0) // 2
    return image.crop((left, top, left + min(width, longest), top + min(height, longest))) if left or top else image


def size_before_crop(width: int, height: int, images: ImagesConfig, view: View) -> tuple[int, int]:
    """To what a picture is resized before its middle is cut out.

    Args:
      width, height: of the picture.
      images: its eval_resize or eval_crop says how large.
      view: what is cut out.
    Returns:
      Pixels across and down, no fewer than those of the view.
    """
    if images.eval_resize:
        shorter = images.eval_resize
    elif images.eval_crop:
        shorter = math.floor(max(view.height, view.width) / images.eval_crop)
    else:
        return view.width, view.height
    return (
        max(int(shorter * width / min(width, height)), view.width),
        max(int(shorter * height / min(width, height)), view.height),
    )


def inception_box(width: int, height: int, least_area: float, random: np.random.Generator) -> Box:
    """A random part of a picture, of random area and shape.

    Args:
      width, height: of the picture.
      least_area: share of the area; up to all of it is drawn, evenly.
      random: of this example.
    Returns:
      A box within the picture, its sides' ratio between 3/4 and 4/3, but for pixels' rounding; the middle of a picture
      that is too long for any.
    Source: Szegedy et al. 2014, https://arxiv.org/abs/1409.4842, section 6; ratios evenly in their logarithm and ten
      tries as torchvision's RandomResizedCrop has them.
    """
    longest = math.log(LARGEST_RATIO)
    for _ in range(TRIES):
        area = width * height * random.uniform(least_area, 1.0)
        ratio = math.exp(random.uniform(-longest, longest))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            left, top = int(random.integers(width - across + 1)), int(random.integers(height - down + 1))
            return left, top, left + across, top + down
    across = min(width, round(height * LARGEST_RATIO))
    down = min(height, round(width * LARGEST_RATIO))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


def cut(opened: OpenedImage, box: Box, view: View, resampling: Image.Resampling) -> Image.Image:
    """A part of a picture, resized to what the model sees.

    Args:
      opened: the picture. A JPEG is decoded only as large as this part needs.
      box: the part.
      view: says the size.
      resampling: how values between pixels are found.
    Returns:
      The part; of other formats, and of parts that are not larger than twice the view, exactly what cropping the
      picture and then resizing it gives.
    """
    left, top, right, bottom = box
    image, divisor = opened.decoded(view.channels, min((right - left) / view.width, (bottom - top) / view.height))
    # Pixels outside of the part have no influence: cut first.
    outer = (left // divisor, top // divisor, -(-right // divisor), -(-bottom // divisor))
    inner = (
        left / divisor - outer[0],
        top / divisor - outer[1],
        right / divisor - outer[0],
        bottom / divisor - outer[1],
    )
    return image.crop(outer).resize((view.width, view.height), resampling, inner)


def erase(pixels: Float32[np.ndarray, "H W C"], random: np.random.Generator) -> None:
    """Fills a random box of an image, 2 to 33 % of its area, with noise of mean 0 and deviation 1, in place.

    Source: Zhong et al. 2017, https://arxiv.org/abs/1708.04896, algorithm 1; noise as timm's RandomErasing in its mode
      "pixel", which DeiT was trained with.
    """
    height, width, channels = pixels.shape
    longest = math.log(ERASED_RATIO)
    for _ in range(TRIES):
        area = height * width * random.uniform(*ERASED_AREA)
        ratio = math.exp(random.uniform(-longest, longest))
        down, across = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < down < height and 0 < across < width:
            top, left = random.integers(height - down + 1), random.integers(width - across + 1)
            noise = random.standard_normal((down, across, channels), np.float32)
            pixels[top : top + down, left : left + across] = noise
            return
