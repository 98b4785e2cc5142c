"""Images of different resolutions packed into rows: each is seen in its own shape, by itself, and has its own label.

Source: Dehghani et al. 2023 (NaViT), https://arxiv.org/abs/2307.06304

Axes: N images, H x W pixels, C channels, T positions of a row, S images of a row.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Int64

from core_jax.draws import generator
from core_jax.embeddings import cut_patches
from core_jax.packing import PackedEpochs, lay_out
from vit_jax.image_sets import ImageExamples, ImageSet
from vit_jax.image_transforms import View
from vit_jax.rows_config import RowLayout


def grid_within(width: int, height: int, patches: int) -> tuple[int, int]:
    """The grid of patches for an image that keeps its shape.

    Args:
      width, height: of the image, or of what is seen of it.
      patches: that there may be.
    Returns:
      Patches down and across, at least one each: those of an image of so many patches, its sides rounded to whole ones;
      where that is too many, those of the next smaller image that has fewer.
    """
    down, across = math.sqrt(patches * height / width), math.sqrt(patches * width / height)
    rows, columns = (min(max(1, round(side)), patches) for side in (down, across))
    while rows * columns > patches:
        # While the image shrinks, the side that loses a patch first is the one that is nearer to half a patch less.
        if columns == 1 or (rows > 1 and (rows - 0.5) / down >= (columns - 0.5) / across):
            rows -= 1
        else:
            columns -= 1
    return rows, columns


@functools.lru_cache(maxsize=4)
def drawn_sides(seed: int, epoch: int, images: int, lowest: int, highest: int) -> Int64[np.ndarray, " N"]:
    """The resolution of every image in an epoch: each of them for as many images as the others, which are drawn.

    So all epochs have the same number of images of each length, and are packed into the same number of rows.

    Args:
      seed: of the run.
      epoch: which pass over the images.
      images: N.
      lowest, highest: of the resolutions, in patches along the side of a square.
    """
    random = generator(seed, epoch, images)  # a stream beyond those of the images
    return lowest + random.permutation(images) * (highest - lowest + 1) // images


@dataclasses.dataclass(frozen=True)
class MultiResolutionImages:
    """Images in their own shape, each with up to as many patches as a square of the side that is drawn for it."""

    images: ImageExamples
    layout: RowLayout

    def __len__(self) -> int:
        return len(self.images)

    def sides(self, epoch: int) -> Int64[np.ndarray, " N"]:
        """The side in patches that is drawn for each image."""
        layout = self.layout
        return drawn_sides(self.images.seed, epoch, len(self), layout.lowest, layout.highest)

    def lengths(self, epoch: int) -> Int64[np.ndarray, " N"]:
        """Tokens that each image of an epoch has at most, without opening any; a square one has as many."""
        return self.layout.front + self.sides(epoch) ** 2

    def example(self, epoch: int, index: int) -> dict[str, Any]:
        """One image as `ImageExamples.example` gives it, of its own height and width."""
        patches = int(self.sides(epoch)[index]) ** 2

        def view(width: int, height: int) -> View:
            rows, columns = grid_within(width, height, patches)
            return View(rows * self.layout.patch_size, columns * self.layout.patch_size, self.layout.channels)

        return self.images.seen(epoch, index, view)


class PackedImages:
    """Rows of images, each a pure function of (epoch, row); may be shared by threads and sent to other processes.

    An epoch holds each image once.

    Attributes:
      images: what is packed.
    """

    def __init__(self, images: MultiResolutionImages):
        """Plans the rows of epoch 0."""
        self.images, self._layout = images, images.layout
        self._epochs = PackedEpochs(
            images.lengths,
            capacity=self._layout.length,
            maximum_per_row=self._layout.images,
            seed=images.images.seed,
        )

    def __len__(self) -> int:
        return len(self._epochs)

    def members(self, epoch: int, row: int) -> list[int]:
        """Which of the images stand in a row, in their order."""
        return self._epochs.members(epoch, row).tolist()

    def measure(self, rows: Iterable[int]) -> tuple[float, float]:
        """Images a row, and the share of positions that is padding, in some rows of epoch 0."""
        found = [self.example(0, row)["segments"] for row in rows]
        return float(np.mean([row.max() for row in found])), float(np.mean([row == 0 for row in found]))

    def example(self, epoch: int, index: int) -> dict[str, Any]:
        """Draws the row at a place.

        Args:
          epoch: which pass over the images; each draws resolutions, changes images and packs anew.
          index: which row, 0 .. len - 1.
        Returns:
          patches: of the images' type, [T, pixels of a patch x C]; segments, front: int32 [T]; places, grids: int32
          [T, 2]; starts: int32 [S], as `core_jax.embeddings.PackedPatches` has them, but for the patches'
          normalisation. labels: int32 [S]; weights: classes, float32 [S], is 1 where there is an image.
        """
        layout = self._layout
        images = [self.images.example(epoch, member) for member in self.members(epoch, index)]
        sizes = np.array([image["images"].shape[:2] for image in images]) // layout.patch_size
        segments, positions, starts = lay_out((layout.front + sizes.prod(axis=1)).tolist(), layout.length)
        is_patch = (segments > 0) & (positions >= layout.front)
        grids = np.where(segments[:, None] > 0, sizes[segments - 1], 1)
        places = np.where(is_patch[:, None], np.stack(np.divmod(positions - layout.front, grids[:, 1]), axis=1), 0)
        cut = np.concatenate([cut_patches(image["images"][None], layout.patch_size)[0] for image in images])
        patches = np.zeros((layout.length, cut.shape[1]), cut.dtype)
        patches[is_patch] = cut
        return {
            "patches": patches,
            "segments": segments,
            "front": np.where((segments > 0) & ~is_patch, positions + 1, 0).astype(np.int32),
            "places": places.astype(np.int32),
            "grids": grids.astype(np.int32),
            "starts": self._fill_up(starts, np.int32),
            "labels": self._fill_up([image["labels"] for image in images], np.int32),
            "weights": {"classes": self._fill_up([image["weights"]["classes"] for image in images], np.float32)},
        }

    def _fill_up(self, values, dtype):
        filled = np.zeros(self._layout.images, dtype)
        filled[: len(values)] = values
        return filled


def pack(images: ImageSet, layout: RowLayout) -> ImageSet:
    """The same images, those to train on packed into rows."""
    train = images.train
    assert isinstance(train, ImageExamples)
    return dataclasses.replace(images, train=PackedImages(MultiResolutionImages(train, layout)))
