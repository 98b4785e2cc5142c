"""Labelled pictures at random access: those in memory, and how some are held out."""

import dataclasses
import gzip
import hashlib
import pathlib
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from core_jax.errors import UserError
from vit_jax.image_files import BadImageError, OpenedImage
from vit_jax.skipped_images import SkippedImages

FASHION_FOLDER = pathlib.Path("/usr/share/datasets/fashion-mnist")  # of the package below
FASHION_PACKAGE = "dataset-fashion-mnist"  # of Debian and Ubuntu
# Source: Xiao et al. 2017, https://arxiv.org/abs/1708.07747, table 2
FASHION_CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


class Picture(NamedTuple):
    """One picture with its class."""

    opened: OpenedImage
    label: int


@runtime_checkable
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
        """Opens one; raises BadImageError where it cannot be read."""
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
        opened = OpenedImage(Image.fromarray(self.pixels[index]), f"image {index}")
        return Picture(opened, int(self.labels[index]))

    def keys(self) -> list[bytes]:
        """What each picture is held out by: its pixels, so that equal pictures stay together."""
        return [pixels.tobytes() for pixels in self.pixels]


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
    train, scored = (ChosenPictures(pictures, np.flatnonzero(chosen)) for chosen in (~held_out, held_out))
    if not (len(train) and len(scored)):
        raise UserError(
            f"--held_out={share} of {len(pictures)} images leaves {len(train)} to train on and {len(scored)} to "
            "score on: give another share, or more images"
        )
    return train, scored


def few_of_each(pictures: Pictures, count: int, seed: int, *, skipped: SkippedImages | None = None) -> ChosenPictures:
    """As many pictures of each class as are asked for, drawn at random.

    Pictures are opened in random order until every class has its number: not all of a large dataset.

    Args:
      pictures: to draw from.
      count: of each class.
      seed: of the draw.
      skipped: is told of pictures that cannot be opened, which are passed over; by default the first ends the draw.
    Raises:
      UserError: a class has fewer.
      BadImageError: a picture cannot be opened, and is not to be passed over.
    """
    chosen, missing = [], dict.fromkeys(range(len(pictures.classes)), count)
    for index in np.random.default_rng(seed).permutation(len(pictures)).tolist():
        try:
            label = pictures.picture(index).label
        except BadImageError as error:
            if skipped is None:
                raise
            skipped.add(error.name or str(error), str(error))
            continue
        if label in missing:
            chosen.append(index)
            missing[label] -= 1
            if not missing[label]:
                del missing[label]
        if not missing:
            return ChosenPictures(pictures, np.sort(np.asarray(chosen)))
    found = {pictures.classes[label]: count - lacking for label, lacking in missing.items()}
    name = min(found, key=lambda name: found[name])
    raise UserError(
        f"--images_per_class={count}: there are {found[name]} images of {name} to train on. Give a lower number, "
        "or 0 to train on all"
    )


def digits() -> PixelPictures:
    """The 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn.

    They are what the UCI repository calls the test set of its Optical Recognition of Handwritten Digits, by 13
    writers. There is no official split of these: a share that is held out has its writers in common with the rest.

    Source: Alpaydin and Kaynak 1998, https://doi.org/10.24432/C50P49
    """
    from sklearn import datasets  # a second that only these need

    found: Any = datasets.load_digits()
    pixels = np.rint(found.images * (255 / 16)).astype(np.uint8)
    return PixelPictures(tuple(map(str, found.target_names)), pixels, found.target.astype(np.int64))


def fashion_mnist(folder: pathlib.Path) -> tuple[PixelPictures, PixelPictures]:
    """Fashion-MNIST: 28 x 28 pixels, ten classes, the official 60,000 to train on and 10,000 to score on.

    Args:
      folder: with its four files.
    Raises:
      UserError: a file is missing or damaged.
    """
    return _fashion_part(folder, "train"), _fashion_part(folder, "t10k")


def check_fashion_mnist(folder: pathlib.Path) -> None:
    """Raises UserError where a folder lacks one of the four files."""
    names = [name for part in ("train", "t10k") for name in _file_names(part)]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} has no {missing[0]}; expected the four files of Fashion-MNIST, {', '.join(names)}. "
            f"On Debian and Ubuntu, type: apt install {FASHION_PACKAGE}"
        )


def _file_names(part: str) -> tuple[str, str]:
    return f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz"


def _fashion_part(folder: pathlib.Path, part: str) -> PixelPictures:
    check_fashion_mnist(folder)
    pixels, labels = (_idx(folder / name) for name in _file_names(part))
    if pixels.ndim != 3 or labels.shape != pixels.shape[:1] or labels.max(initial=0) >= len(FASHION_CLASSES):
        raise UserError(
            f"{folder}: {part} has pixels of shape {pixels.shape} and labels of shape {labels.shape} up to "
            f"{labels.max(initial=0)}; expected (N, 28, 28), (N,) and {len(FASHION_CLASSES)} classes"
        )
    return PixelPictures(FASHION_CLASSES, pixels, labels.astype(np.int64))


def _idx(path: pathlib.Path) -> np.ndarray:
    """Reads an array of bytes.

    Source: the format is described at the end of http://yann.lecun.com/exdb/mnist
    """
    try:
        content = gzip.decompress(path.read_bytes())
        dimensions = content[3]
        shape = np.frombuffer(content, ">u4", dimensions, offset=4)
        if content[:3] != bytes([0, 0, 8]):  # 8: unsigned bytes
            raise ValueError("it does not begin as such files do")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape.tolist())
    except (OSError, EOFError, IndexError, ValueError, zlib.error) as error:
        raise UserError(f"{path} is not a file of images or labels in the idx format ({error}): get it anew") from error
