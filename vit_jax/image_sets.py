"""Images as examples: what `--data` names, for training and for scoring, each a pure function of (seed, epoch, index).

Axes: H x W pixels, C channels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from core_jax.data import Examples
from core_jax.draws import generator
from core_jax.errors import UserError
from vit_jax.image_transforms import View, evaluation_image, training_image
from vit_jax.images_config import ImagesConfig
from vit_jax.picture_sources import Pictures, digits, hold_out


@dataclass(frozen=True)
class ImageExamples:
    """Pictures as the model sees them; may be shared by threads and sent to other processes.

    `example` gives {"images": float32[H, W, C], "labels": int32, "weights": {"classes": float32}}.
    """

    pictures: Pictures
    images: ImagesConfig
    view: View
    seed: int
    train: bool  # whether random transforms are on; without them all epochs are the same

    def __len__(self) -> int:
        return len(self.pictures)

    def example(self, epoch: int, index: int) -> dict[str, Any]:
        """One picture, its class and its weight."""
        picture = self.pictures.picture(index)
        if self.train:
            pixels = training_image(picture.image, self.images, self.view, generator(self.seed, epoch, index))
        else:
            pixels = evaluation_image(picture.image, self.images, self.view)
        return {"images": pixels, "labels": np.int32(picture.label), "weights": {"classes": np.float32(1)}}


@dataclass(frozen=True)
class ImageSet:
    """What to train on and what to score on."""

    train: Examples
    held_out: Examples
    classes: tuple[str, ...]  # names, in the order of the labels


def check_images(images: ImagesConfig) -> None:
    """Raises for mistakes in the configuration that show without reading images.

    Raises:
      UserError: unknown scheme, no such files, dataset, column or split, or fewer than two classes.
    """
    if images.data != "digits":
        raise UserError(f"--data={images.data}: not understood")


def open_image_set(images: ImagesConfig, *, height: int, width: int, channels: int, seed: int) -> ImageSet:
    """Finds the images that a configuration names.

    Args:
      images: says which, and how they are cut and changed.
      height, width: pixels of an example.
      channels: 3 (red, green, blue) or 1 (grey).
      seed: of the random transforms.
    Raises:
      UserError: as for `check_images`, or nothing to train on or to score on.
    """
    check_images(images)
    pictures, keys = digits()
    train, held_out = hold_out(pictures, keys, images.held_out)
    view = View(height, width, channels)
    return ImageSet(
        ImageExamples(train, images, view, seed, train=True),
        ImageExamples(held_out, images, view, seed, train=False),
        pictures.classes,
    )
