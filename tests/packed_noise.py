"""Pictures of noise in several shapes, packed into rows."""

import dataclasses

import jax
import numpy as np
from PIL import Image

from tests.tiny_vit import CLASSES, CONFIG
from vit_jax.image_files import BadImageError, OpenedImage
from vit_jax.image_sets import ImageExamples, ImageSet
from vit_jax.image_transforms import View
from vit_jax.images_config import ImagesConfig
from vit_jax.normalization import normalised_batch
from vit_jax.packed_images import PackedImages, pack
from vit_jax.picture_sources import Picture
from vit_jax.rows_config import RowLayout, RowsConfig, row_layout
from vit_jax.skipped_images import SkippedImages

SHAPES = ((8, 8), (20, 10), (6, 15))  # width, height
COUNT, ROWS = 41, 8


@dataclasses.dataclass(frozen=True)
class NoisePictures:
    """Grey noise of different shapes."""

    count: int = COUNT
    unreadable: int = -1
    classes: tuple[str, ...] = tuple("abcdefg")

    def __len__(self) -> int:
        return self.count

    def picture(self, index: int) -> Picture:
        if index == self.unreadable:
            raise BadImageError(f"picture {index} is no image")
        width, height = SHAPES[index % len(SHAPES)]
        pixels = np.random.default_rng(index).integers(0, 256, (height, width), dtype=np.uint8)
        return Picture(OpenedImage(Image.fromarray(pixels), f"{index}"), index % CLASSES)


def layout_of(**changes) -> RowLayout:
    rows = RowsConfig(packing=True, resolutions="4,8", sequence_length=40)
    return row_layout(dataclasses.replace(CONFIG, **changes), rows)


def packed_rows(layout: RowLayout, pictures=NoisePictures(), **images) -> PackedImages:
    view = View(CONFIG.height, CONFIG.width_of_image, 1)
    examples = ImageExamples(pictures, ImagesConfig(**images), view, seed=5, train=True, skipped=SkippedImages())
    found = pack(ImageSet(examples, examples, pictures.classes), layout).train
    assert isinstance(found, PackedImages)
    return found


def batch_of(packed: PackedImages, rows: int = ROWS) -> dict:
    """The first rows as they travel."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *(packed.example(0, row) for row in range(rows)))


def seen_batch(packed: PackedImages) -> dict:
    """The first rows as the losses read them."""
    return normalised_batch(batch_of(packed), "half", 1)


def alone(packed: PackedImages, row: int) -> list[dict]:
    """The images of a row of epoch 0, unpacked, as the losses read them."""
    return [normalised_batch(packed.images.example(0, member), "half", 1) for member in packed.members(0, row)]
