"""Labelled pictures at random access, wherever they come from."""

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from core_jax.errors import UserError


class Picture(NamedTuple):
    """One picture with its class."""

    image: Image.Image  # of any mode, perhaps not decoded yet
    label: int


class Pictures(Protocol):
    """Pictures by number; may be sent to other processes."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers."""
        ...

    def __len__(self) -> int:
        """How many there are."""
        ...

    def picture(self, index: int) -> Picture:
        """Opens one."""
        ...


@dataclasses.dataclass(frozen=True)
class PixelPictures:
    """Grey pictures that are all in memory."""

    classes: tuple[str, ...]
    pixels: UInt8[np.ndarray, "N H W"]
    labels: Int64[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.pixels)

    def picture(self, index: int) -> Picture:
        """One of them."""
        return Picture(Image.fromarray(self.pixels[index]), int(self.labels[index]))


@dataclasses.dataclass(frozen=True)
class ChosenPictures:
    """Some of other pictures."""

    pictures: Pictures
    chosen: Int64[np.ndarray, " N"]

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of all."""
        return self.pictures.classes

    def __len__(self) -> int:
        return len(self.chosen)

    def picture(self, index: int) -> Picture:
        """One of those that were chosen."""
        return self.pictures.picture(int(self.chosen[index]))


def hold_out(pictures: Pictures, keys: Iterable[bytes], share: float) -> tuple[Pictures, Pictures]:
    """Deals pictures to training and scoring by a hash of their keys: what else there is changes nothing.

    Args:
      pictures: all.
      keys: of each, the same for all that must not come into different parts.
      share: to hold out, about.
    Returns:
      Those to train on and those held out.
    Raises:
      UserError: one of the two would be empty.
    """
    places = [int.from_bytes(hashlib.sha256(key).digest()[:8], "big") / 2**64 for key in keys]
    held_out = np.asarray(places) < share
    parts = tuple(ChosenPictures(pictures, np.flatnonzero(chosen)) for chosen in (~held_out, held_out))
    if not (len(parts[0]) and len(parts[1])):
        raise UserError(
            f"--held_out={share} of {len(pictures)} images leaves {len(parts[0])} to train on and {len(parts[1])} to "
            "score on: give another share, or more images"
        )
    return parts


def digits() -> tuple[PixelPictures, Iterable[bytes]]:
    """The 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn, and a key of each: its pixels.

    They are what the UCI repository calls the test set of its Optical Recognition of Handwritten Digits, by 13
    writers. There is no official split of these: a share that is held out has writers in common with the rest.

    Source: Alpaydin and Kaynak 1998, https://doi.org/10.24432/C50P49
    """
    from sklearn import datasets

    found = datasets.load_digits()
    pixels = np.rint(found.images * (255 / 16)).astype(np.uint8)
    names = tuple(str(name) for name in found.target_names)
    return PixelPictures(names, pixels, found.target.astype(np.int64)), (image.tobytes() for image in pixels)
