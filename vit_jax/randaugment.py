"""RandAugment (Cubuk et al. 2019, https://arxiv.org/abs/1909.13719) as big_vision and EfficientNet have it.

The sixteen operations, their ranges, grey for what comes into view and nearest pixels for what is moved are those of
big_vision's `pp/autoaugment.py`; its pixels are of images of 224, here they are shares of a side. One operation
differs: contrast grows about the mean grey, as in Pillow, where the original takes the number of pixels / 256 for it.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

STRONGEST = 10  # the strength at which each operation is at its extreme
GREY = 128
TRANSLATION = 100 / 224  # of a side, at most
CUTOUT = 40 / 224  # from the middle of what is covered to its edge
Operation = Callable[[Image.Image, float, np.random.Generator], Image.Image]  # strength from 0 to 1


def randaugment(
    image: Image.Image, count: int, strength: int, random: np.random.Generator, spread: float = 0.0
) -> Image.Image:
    """Changes an image by some operations, one after the other.

    Args:
      image: 8 bits a channel, grey or colour.
      count: operations, drawn with repetition.
      strength: of each, 0 to 10.
      random: of this example.
      spread: deviation of a normal that the strength of each operation is drawn from, as in timm.
    """
    for number in random.integers(len(OPERATIONS), size=count).tolist():
        drawn = random.normal(strength, spread) if spread else strength
        image = list(OPERATIONS.values())[number](image, min(max(drawn, 0), STRONGEST) / STRONGEST, random)
    return image


def _sign(random: np.random.Generator) -> int:
    return 1 if random.random() < 0.5 else -1


def _moved(image: Image.Image, matrix: tuple[int | float, ...]) -> Image.Image:
    """Takes each pixel (x, y) from (a x + b y + c, d x + e y + f)."""
    grey = (GREY,) * len(image.getbands())
    fill = grey if len(grey) > 1 else GREY
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=fill)


def _shear_x(image, strength, random):
    return _moved(image, (1, _sign(random) * 0.3 * strength, 0, 0, 1, 0))


def _shear_y(image, strength, random):
    return _moved(image, (1, 0, 0, _sign(random) * 0.3 * strength, 1, 0))


def _translate_x(image, strength, random):
    return _moved(image, (1, 0, _sign(random) * TRANSLATION * strength * image.width, 0, 1, 0))


def _translate_y(image, strength, random):
    return _moved(image, (1, 0, 0, 0, 1, _sign(random) * TRANSLATION * strength * image.height))


def _rotate(image, strength, random):
    angle = math.radians(_sign(random) * 30 * strength)
    x, y, cosine, sine = image.width / 2, image.height / 2, math.cos(angle), math.sin(angle)
    return _moved(image, (cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y))


def _cutout(image, strength, random):
    x, y = random.integers(image.width), random.integers(image.height)
    across, down = (int(CUTOUT * strength * side) for side in image.size)
    box = (max(0, x - across), max(0, y - down), min(image.width, x + across), min(image.height, y + down))
    covered = image.copy()
    if box[0] < box[2] and box[1] < box[3]:
        covered.paste((GREY,) * len(image.getbands()) if image.mode != "L" else GREY, tuple(map(int, box)))
    return covered


def _solarize_add(image, strength, random):
    del random
    added = int(110 * strength)
    table = [min(value + added, 255) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda image, strength, random: kind(image).enhance(0.1 + 1.8 * strength)


def _with_bits(image, bits):
    """Keeps the upper bits of each value; Pillow's own function refuses to keep none, which is what the source does."""
    kept = 256 - 2 ** (8 - bits)
    return image.point([value & kept for value in range(256)] * len(image.getbands()))


OPERATIONS: dict[str, Operation] = {
    "auto_contrast": lambda image, strength, random: ImageOps.autocontrast(image),
    "equalize": lambda image, strength, random: ImageOps.equalize(image),
    "invert": lambda image, strength, random: ImageOps.invert(image),
    "rotate": _rotate,
    "posterize": lambda image, strength, random: _with_bits(image, int(4 * strength)),
    "solarize": lambda image, strength, random: ImageOps.solarize(image, int(256 * strength)),
    "color": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
    "cutout": _cutout,
    "solarize_add": _solarize_add,
}
