"""Decodes pictures of any format that Pillow reads to upright 8-bit grey or colour; bad ones are named.

Colours with transparency stand on white, as a viewer shows them. Of a file that moves, the first picture is taken.
"""

import contextlib
import dataclasses
import io
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image

from core_jax.errors import UserError

MODES = {1: "L", 3: "RGB"}  # of Pillow, by channels
# What brings upright again what a camera took lying or upside down, by the orientation (tag 274) of Exif 2.3.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDES_SWAPPED = (5, 6, 7, 8)
DRAFTS = (8, 4, 2)  # by how much a JPEG can be decoded smaller
DRAFT_FORMATS = ("JPEG", "MPO")  # the second: several of them in one file, as of telephones
# A file of a few bytes can ask for gigabytes: Pillow warns of such, which makes them unreadable here.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


class BadImageError(UserError):
    """A picture that cannot be read; the message names it, and `name` is that name alone, where it is known."""

    def __init__(self, message: str, name: str = ""):
        super().__init__(message)
        self.name = name


@dataclasses.dataclass(frozen=True)
class OpenedImage:
    """A picture whose size is known, and whose pixels may not be decoded yet. It can be decoded once."""

    image: Image.Image
    name: str
    orientation: int = 1  # as of Exif

    @property
    def size(self) -> tuple[int, int]:
        """Pixels across and down, once it is upright."""
        width, height = self.image.size
        return (height, width) if self.orientation in SIDES_SWAPPED else (width, height)

    def decoded(self, channels: int, shrink: float = 1.0) -> tuple[Image.Image, int]:
        """Decodes the picture.

        Args:
          channels: 3 (red, green, blue) or 1 (grey).
          shrink: how many times smaller it may be, to save time; only a JPEG is made smaller.
        Returns:
          The upright picture, 8 bits a channel, and how many times smaller it is.
        Raises:
          BadImageError: it is damaged, or of a kind that cannot be shown.
        """
        image, divisor = self.image, next((divisor for divisor in DRAFTS if divisor <= shrink), 1)
        with _named(self.name):
            width = image.width
            drawn = image.draft(None, (width // divisor, image.height // divisor)) if divisor > 1 else None
            divisor = 1 if drawn is None else round(width / drawn[1][2])
            image.load()
            if self.orientation in UPRIGHT:
                image = image.transpose(UPRIGHT[self.orientation])
            return _in_mode(image, MODES[channels]), divisor


def open_image(content: bytes, name: str) -> OpenedImage:
    """Opens a picture.

    Args:
      content: of its file.
      name: for messages.
    Raises:
      BadImageError: it is no picture, or is far too large.
    """
    with _named(name):
        image = Image.open(io.BytesIO(content))
        if image.format not in DRAFT_FORMATS:
            image.load()  # other formats may tell the orientation only behind the pixels
    return OpenedImage(image, name, _orientation(image))


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise BadImageError(
            f"{name} asks for more than {Image.MAX_IMAGE_PIXELS:,} pixels, as files do that are to fill the memory",
            name,
        ) from None
    except Image.UnidentifiedImageError:
        raise BadImageError(f"{name} is no image of a format that Pillow reads", name) from None
    except Exception as error:  # Pillow's decoders raise errors of any kind over damaged files
        raise BadImageError(f"{name} cannot be read as an image ({error})", name) from error


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a camera's note that is damaged does not spoil the picture
        return 1


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode and "transparency" not in image.info:
        return image
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Grey values of 16 bits, of 32 bits or of 0.0 to 1.0, as 8 bits."""
    lowest, highest = float(values.min()), float(values.max())
    whole = 65535.0
    if values.dtype.kind == "f":
        whole = 1.0
    elif values.dtype.itemsize > 2 and highest <= 255:
        whole = 255.0
    if not (lowest >= 0 and highest <= whole):
        raise ValueError(f"its values go from {lowest:g} to {highest:g}, expected 0 to {whole:g}")
    return np.rint(values * (255 / whole)).astype(np.uint8)
