"""Pictures of images as the model sees them, with the names of their classes, as PNG files.

Axes: N images, H x W pixels, C channels.
"""

import io
from collections.abc import Sequence

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from core_jax.atomic_files import write_atomically
from core_jax.data import Examples, order_of
from vit_jax.images_config import NORMALIZATIONS, Normalization

COLUMNS = 8
SMALLEST_SIDE = 112  # pixels: smaller images are shown larger, pixel by pixel
LETTERS = 14  # pixels that a line of text is high
GAP = 6  # pixels between images
ELLIPSIS = "…"


def samples_picture(
    path: epath.PathLike,
    examples: Examples,
    classes: Sequence[str],
    *,
    normalization: Normalization,
    seed: int,
    count: int = 4 * COLUMNS,
) -> None:
    """Draws the first images of a training run as the model sees them, random transforms and all.

    Args:
      path: of the picture, .png; a part of it is never seen.
      examples: {"images", "labels"} each, and their weights; one that weighs nothing could not be read.
      classes: names, in the order of the labels.
      normalization: that examples in floats went through, a name of NORMALIZATIONS.
      seed: of the run's order.
      count: of images, at most.
    """
    order = order_of(examples, seed)
    found = [examples.example(*order(position)) for position in range(min(count, len(examples)))]
    names = [
        classes[int(example["labels"])] if np.any(example["weights"]["classes"]) else "not readable"
        for example in found
    ]
    grid_picture(path, shown([example["images"] for example in found], normalization), names)


def shown(
    images: Sequence[UInt8[np.ndarray, "_ _ C"] | Float[np.ndarray, "_ _ C"]], normalization: Normalization
) -> UInt8[np.ndarray, "N H W C"]:
    """Takes normalisation back: colours from 0 to 255.

    Args:
      images: as they are read, or, in floats, as the model sees them; smaller ones get white edges.
      normalization: that floats went through.
    """
    height, width = np.max([image.shape[:2] for image in images], axis=0)
    channels = images[0].shape[2]
    mean, deviation = (np.array(shares[:channels]) for shares in NORMALIZATIONS[normalization])
    values = np.full((len(images), height, width, channels), 255, np.uint8)
    for place, image in zip(values, images, strict=True):
        colours = image if image.dtype == np.uint8 else np.rint(np.clip(image * deviation + mean, 0, 1) * 255)
        place[: image.shape[0], : image.shape[1]] = colours
    return values


def grid_picture(
    path: epath.PathLike, images: UInt8[np.ndarray, "N H W C"], names: Sequence[str], columns: int = COLUMNS
) -> None:
    """Draws images in rows, each with a line of text below.

    Args:
      path: of the picture, .png; a part of it is never seen.
      images: grey or colour.
      names: a text for each; what is too long for its place is shortened.
      columns: images of a row.
    """
    enlarged = max(1, -(-SMALLEST_SIDE // max(images.shape[1:3])))
    height, width = (side * enlarged for side in images.shape[1:3])
    columns = min(columns, len(images))
    across, down = width + GAP, height + GAP + LETTERS + 4
    picture = Image.new("RGB", (columns * across + GAP, -(-len(images) // columns) * down + GAP), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(LETTERS)
    for number, (pixels, name) in enumerate(zip(images, names, strict=True)):
        left, top = GAP + number % columns * across, GAP + number // columns * down
        image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).convert("RGB")
        picture.paste(image.resize((width, height), Image.Resampling.NEAREST), (left, top))
        draw.text((left, top + height + 2), _shortened(name, draw, font, width), "black", font)
    file = io.BytesIO()
    picture.save(file, "PNG")
    write_atomically(path, file.getvalue())


def _shortened(name: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int):
    name = " ".join(name.split())
    if draw.textlength(name, font) <= width:
        return name
    while name and draw.textlength(name + ELLIPSIS, font) > width:
        name = name[:-1]
    return name + ELLIPSIS
