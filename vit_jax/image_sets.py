"""Images as examples: what `--data` names, for training and for scoring, each a pure function of (seed, epoch, index).

Axes: H x W pixels, C channels.
"""

import pathlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from core_jax.config import require
from core_jax.data import Examples
from core_jax.draws import generator
from core_jax.errors import UserError
from core_jax.sources import misunderstood
from vit_jax.image_files import MODES, BadImageError
from vit_jax.image_transforms import View, evaluation_image, training_dtype, training_image
from vit_jax.images_config import ImagesConfig
from vit_jax.picture_datasets import find_dataset
from vit_jax.picture_folders import folder_pictures, part_folders
from vit_jax.picture_sources import (
    FASHION_FOLDER,
    FASHION_PACKAGE,
    Pictures,
    check_fashion_mnist,
    digits,
    fashion_mnist,
    few_of_each,
    hold_out,
)
from vit_jax.skipped_images import SkippedImages

SCHEMES = {
    "digits": "digits (1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn)",
    "fashion_mnist": "fashion_mnist or fashion_mnist:DIR (70,000 pieces of clothing of 28 x 28 pixels)",
    "tfds": "tfds:NAME or tfds:NAME/CONFIG (a TensorFlow Datasets dataset)",
    "images": "images:DIR (a folder of images for each class, or train and validation with these)",
}


@dataclass(frozen=True)
class ImageExamples:
    """Pictures as the model sees them; may be shared by threads and sent to other processes.

    `example` gives {"images": uint8[H, W, C], "labels": int32, "weights": {"classes": float32}}; images to train on
    are of `training_dtype`. Where bad images are skipped, one that cannot be read counts for nothing: no scan of all
    files, which would have to decode them, and every example stands where it stood.
    """

    pictures: Pictures
    images: ImagesConfig
    view: View
    seed: int
    train: bool  # whether random transforms are on; without them all epochs are the same
    skipped: SkippedImages

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def repeats(self) -> int:
        """How often each picture stands one after the other in training."""
        return self.images.repeats if self.train else 1

    def example(self, epoch: int, index: int) -> dict[str, Any]:
        """One picture, its class and its weight."""
        return self.seen(epoch, index, lambda width, height: self.view)

    def seen(self, epoch: int, index: int, shape: Callable[[int, int], View]) -> dict[str, Any]:
        """The same, in a shape that follows from (width, height) of what is seen of the picture."""
        try:
            opened, label = self.pictures.picture(index)
            if self.train:
                pixels = training_image(opened, self.images, shape, generator(self.seed, epoch, index))
            else:
                pixels = evaluation_image(opened, self.images, shape(*opened.size))
        except BadImageError as error:
            if self.images.bad_images == "fail":
                raise BadImageError(f"{error}: replace or delete it, or add --bad_images=skip") from error
            self.skipped.add(error.name or str(error), str(error))
            dtype = training_dtype(self.images) if self.train else np.uint8
            pixels, label, weight = np.zeros(shape(1, 1), dtype), 0, 0
        else:
            weight = 1
        return {"images": pixels, "labels": np.int32(label), "weights": {"classes": np.float32(weight)}}


@dataclass(frozen=True)
class ImageSet:
    """What to train on and what to score on."""

    train: Examples
    held_out: Examples
    classes: tuple[str, ...]  # names, in the order of the labels
    skipped: SkippedImages = field(default_factory=SkippedImages)  # of both parts


def check_images(images: ImagesConfig) -> None:
    """Raises for mistakes in the configuration that show without reading images.

    Raises:
      UserError: unknown scheme, no such files, dataset, column or split, or fewer than two classes.
    """
    scheme, place = _parse(images)
    if images.validation_data:
        part_folders(images.validation_data, _folder_place(images))
    if scheme == "fashion_mnist":
        check_fashion_mnist(pathlib.Path(place).expanduser())
    elif scheme == "tfds":
        find_dataset(images, place)
    elif scheme == "images":
        part_folders(images.data, place)


def open_image_set(
    images: ImagesConfig, *, height: int, width: int, channels: int, seed: int, skipped: SkippedImages | None = None
) -> ImageSet:
    """Finds the images that a configuration names.

    Args:
      images: says which, and how they are cut and changed.
      height, width: pixels of an example.
      channels: 3 (red, green, blue) or 1 (grey).
      seed: of the random transforms.
      skipped: is told of images that cannot be read, where they are skipped.
    Raises:
      UserError: as for `check_images`, nothing to train on or to score on, nothing of it that can be read, or images
        of this shape cannot be had.
    """
    view = View(height, width, channels)
    check_view(images, view)
    check_images(images)
    train, held_out = _pictures(images)
    skipped = skipped or SkippedImages()
    if images.images_per_class:
        told = skipped if images.bad_images == "skip" else None
        train = few_of_each(train, images.images_per_class, seed, skipped=told)
    learnt = ImageExamples(train, images, view, seed, train=True, skipped=skipped)
    scored = ImageExamples(held_out, images, view, seed, train=False, skipped=skipped)
    where = f"--validation_data={images.validation_data}" if images.validation_data else f"--data={images.data}"
    require_readable(learnt, f"--data={images.data}", "to train on")
    require_readable(scored, where, "to score on")
    return ImageSet(learnt, scored, train.classes, skipped)


def require_readable(examples: ImageExamples, flag: str, purpose: str) -> None:
    """Opens images up to the first that can be read: where bad ones are skipped, nothing might be left.

    Args:
      examples: which must not all be bad.
      flag: what the user typed, for the message.
      purpose: of the images, such as "to score on".
    Raises:
      UserError: none can be read.
    """
    if examples.images.bad_images == "fail":  # which names the first bad image when it comes to it
        return
    met = SkippedImages()  # they are not among those that the run skips yet
    plain = replace(examples, train=False, skipped=met)
    if not any(plain.example(0, index)["weights"]["classes"] for index in range(len(plain))):
        raise UserError(
            f"{flag}: none of the {len(plain):,} images {purpose} can be read; expected one at least. "
            f"{met.messages()[0]}"
        )


def check_view(images: ImagesConfig, view: View) -> None:
    """Raises UserError where images cannot be brought to this shape as asked."""
    require(view.channels in MODES, f"--channels={view.channels}: images have 3 (colour) or 1 (grey)")
    require(
        view.channels == 3 or images.normalization == "half",
        f"--normalization={images.normalization} is of colours: with --channels=1 use --normalization=half",
    )
    require(
        not 0 < images.eval_resize < max(view.height, view.width),
        f"--eval_resize={images.eval_resize} is less than the images' {max(view.height, view.width)} pixels: nothing "
        "could be cut out of the middle",
    )


def _pictures(images: ImagesConfig) -> tuple[Pictures, Pictures]:
    """Those to train on and those to score on."""
    scheme, place = _parse(images)
    if scheme == "digits":
        found = digits()
    elif scheme == "fashion_mnist":
        return fashion_mnist(pathlib.Path(place).expanduser())
    elif scheme == "tfds":
        dataset = find_dataset(images, place)
        found = dataset.pictures(dataset.train_split)
        if dataset.scored_split:
            return found, dataset.pictures(dataset.scored_split)
    else:
        folder, scored = part_folders(images.data, place)
        found = folder_pictures(images.data, folder)
        if images.validation_data:
            scored, _ = part_folders(images.validation_data, _folder_place(images))
        if scored is not None:
            return found, folder_pictures(images.validation_data or images.data, scored, found.classes)
    return hold_out(found, found.keys(), images.held_out)


def _parse(images: ImagesConfig) -> tuple[str, str]:
    """Scheme and place of `--data`; Fashion-MNIST may be a dataset of TFDS."""
    scheme, colon, place = images.data.partition(":")
    needs_place = {"digits": False, "fashion_mnist": bool(colon), "tfds": True, "images": True}
    if scheme not in SCHEMES or bool(place) != needs_place[scheme]:
        files = not colon and re.search(r"[./]", images.data)
        advice = f"For a folder, type: images:{images.data}" if files else ""
        raise misunderstood("source of images", images.data, SCHEMES, advice)
    require(
        not images.validation_data or scheme == "images",
        f"--validation_data goes with --data=images:DIR, not with --data={images.data}",
    )
    if images.data != "fashion_mnist":
        return scheme, place
    if FASHION_FOLDER.is_dir():
        return scheme, str(FASHION_FOLDER)
    try:
        find_dataset(replace(images, data="tfds:fashion_mnist"), "fashion_mnist")
    except UserError as error:
        raise UserError(
            f"Fashion-MNIST is neither in {FASHION_FOLDER} nor a dataset of TFDS here. On Debian and Ubuntu, type: apt "
            f"install {FASHION_PACKAGE}. Or say where its files are: --data=fashion_mnist:DIR. Or for TFDS: {error}"
        ) from None
    return "tfds", "fashion_mnist"


def _folder_place(images: ImagesConfig) -> str:
    """The folder of `--validation_data`."""
    scheme, _, place = images.validation_data.partition(":")
    require(scheme == "images" and bool(place), f"--validation_data={images.validation_data}: expected images:DIR")
    return place
