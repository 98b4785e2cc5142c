"""What a row of a batch holds: one image, or several of different resolutions."""

import dataclasses
import re

from core_jax.config import require
from vit_jax.config import VitConfig

ROOM = 4  # of the largest images, in a row whose length is not given


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowsConfig:
    """How images to train on share the rows of a batch; images to score on never do."""

    # whether a row holds as many images as fit (NaViT), each on its own, in its own shape and at a resolution drawn
    # anew in every epoch; images to score on are of --image_size all the same
    packing: bool = False
    # with --packing, lowest and highest side in pixels, such as 16,32: an image has as many patches as a square of a
    # side between them
    resolutions: str = ""
    # with --packing, tokens of a row; 0: as many as four of the largest images have
    sequence_length: int = 0

    def __post_init__(self):
        for name in ("resolutions", "sequence_length"):
            value = getattr(self, name)
            require(
                self.packing or not value, f"--{name}={value} goes with --packing=True; leave it out, or add the other"
            )
        require(self.sequence_length >= 0, f"--sequence_length={self.sequence_length}: expected tokens of a row")


@dataclasses.dataclass(frozen=True)
class RowLayout:
    """The sizes of packed rows.

    Attributes:
      patch_size: pixels of a patch's side.
      channels: of a pixel.
      front: tokens of each image that are no patches, and stand before these.
      lowest, highest: patches along the sides of the smallest and the largest square.
      length: tokens of a row, T.
    """

    patch_size: int
    channels: int
    front: int
    lowest: int
    highest: int
    length: int

    @property
    def images(self) -> int:
        """Room for images in a row, S: none can hold more."""
        return self.length // (self.front + self.lowest**2)

    @property
    def typical_images(self) -> int:
        """Images of a full row, about: each resolution is as frequent as the others."""
        sides = range(self.lowest, self.highest + 1)
        return max(1, self.length * len(sides) // sum(self.front + side**2 for side in sides))


def row_layout(model: VitConfig, rows: RowsConfig) -> RowLayout:
    """The sizes of packed rows of a model.

    Args:
      model: whose tokens the rows hold.
      rows: with packing.
    Raises:
      UserError: the resolutions are none, or do not divide into patches, or the largest image does not fit into a row;
        or the model reads more than patches.
    """
    patch, front = model.patch_size, int(model.class_token) + model.registers
    require(
        not model.stem,
        f"--packing=True cuts patches from the images themselves, --stem={model.stem} from a map of its own: leave one "
        "of them out",
    )
    require(
        not model.stochastic_depth,
        f"--packing=True: --stochastic_depth={model.stochastic_depth} would leave out layers of all images of a row "
        "together; use --stochastic_depth=0",
    )
    whole = min(model.height, model.width_of_image)
    example = f"--resolutions={max(whole // 2 // patch, 1) * patch},{whole}"
    match = re.fullmatch(r"(\d+),(\d+)", rows.resolutions)
    require(
        match is not None,
        f"--resolutions={rows.resolutions}: --packing=True needs the lowest and the highest side in pixels, such as "
        f"{example}",
    )
    lowest, highest = map(int, rows.resolutions.split(","))
    require(
        0 < lowest <= highest and lowest % patch == 0 and highest % patch == 0,
        f"--resolutions={rows.resolutions}: expected two multiples of --patch_size={patch}, the lower one first, such "
        f"as {example}",
    )
    lowest, highest = lowest // patch, highest // patch
    largest = front + highest**2
    length = rows.sequence_length or ROOM * largest
    require(
        largest <= length,
        f"--sequence_length={length} has no room for an image of --resolutions={rows.resolutions}, which has up to "
        f"{largest} tokens: use --sequence_length={largest} or more, or a lower resolution",
    )
    return RowLayout(patch, model.channels, front, lowest, highest, length)
