"""Pictures in files, a folder for each class."""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
from etils import epath
from jaxtyping import Int64
from PIL import Image

from core_jax.errors import UserError
from vit_jax.image_files import BadImageError, open_image
from vit_jax.picture_sources import Picture

SCORED_FOLDERS = ("validation", "val", "valid", "test")  # the first that is there is scored on
FORM = "images:DIR, where DIR has a folder of images for each class"
SHOWN = 5  # names in a message


@dataclasses.dataclass(frozen=True)
class FolderPictures:
    """Pictures in files."""

    classes: tuple[str, ...]
    folder: str
    files: tuple[str, ...]  # paths within the folder
    labels: Int64[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.files)

    def picture(self, index: int) -> Picture:
        """Reads a file; raises BadImageError where that fails."""
        name = f"{self.folder}/{self.files[index]}"
        try:
            content = epath.Path(name).read_bytes()
        except OSError as error:
            raise BadImageError(f"{name} cannot be read ({error.strerror or error})", name) from error
        return Picture(open_image(content, name), int(self.labels[index]))

    def keys(self) -> list[bytes]:
        """What each picture is held out by: the path within the folder."""
        return [file.encode("utf-8", "surrogateescape") for file in self.files]


def part_folders(data: str, place: str) -> tuple[epath.Path, epath.Path | None]:
    """Where the class folders to train on and to score on are.

    Args:
      data: what the user typed, for messages.
      place: the folder; it has class folders, or `train` and perhaps `validation`, `val`, `valid` or `test` with these.
    Returns:
      The folder to train on and the one to score on, None where a share is to be held out.
    Raises:
      UserError: there is no such folder, or it has fewer than two class folders.
    """
    folder = epath.Path(place).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"{data}: {folder} is {'a file' if folder.exists() else 'not there'}; expected {FORM}. Relative paths "
            f"start from {epath.Path().resolve()}"
        )
    inside = _folders(folder)
    parts = ("train", *SCORED_FOLDERS)
    if "train" in inside and set(inside) <= set(parts):
        scored = next((folder / name for name in SCORED_FOLDERS if name in inside), None)
        found = folder / "train", scored
    else:
        found = folder, None
    for part in filter(None, found):
        class_folders(data, part)
    return found


def class_folders(data: str, folder: epath.Path) -> tuple[str, ...]:
    """The names of the class folders within a folder, sorted.

    Args:
      data: what the user typed, for messages.
      folder: which has them.
    Raises:
      UserError: fewer than two.
    """
    found = _folders(folder)
    if len(found) < 2:
        loose = sum(_is_image(path.name) for path in _inside(folder))
        raise UserError(
            f"{data}: {folder} has {'one folder, ' + repr(found[0]) if found else 'no folders'}"
            f"{f', and {loose} images that are in none' if loose else ''}; expected {FORM}, two at least"
        )
    return tuple(found)


def folder_pictures(data: str, folder: epath.Path, classes: tuple[str, ...] | None = None) -> FolderPictures:
    """Finds the pictures of all class folders, those in folders within them, too.

    Args:
      data: what the user typed, for messages.
      folder: which has the class folders.
      classes: those to find, where others have been trained on; by default all that are there.
    Raises:
      UserError: fewer than two class folders, one without images, or other classes than were trained on.
    """
    found = class_folders(data, folder)
    strange = sorted(set(found) - set(classes or found))
    if strange:
        raise UserError(
            f"{data}: {folder} has classes that there is nothing to train on for: {_listed(strange)}; "
            f"expected some of {_listed(classes or ())}"
        )
    files = {name: tuple(_images(folder / name, name)) for name in found}
    empty = [name for name in found if not files[name]]
    if empty:
        raise UserError(
            f"{data}: no images in {len(empty)} of {len(found)} class folders: {_listed(empty)}. Expected files "
            "such as .jpg, .png, .webp or what else Pillow reads; delete folders that are no class"
        )
    numbers = {name: number for number, name in enumerate(classes or found)}
    labels = np.repeat([numbers[name] for name in found], [len(files[name]) for name in found]).astype(np.int64)
    return FolderPictures(classes or found, str(folder), tuple(file for name in found for file in files[name]), labels)


def _folders(folder: epath.Path) -> list[str]:
    return [path.name for path in _inside(folder) if path.is_dir()]


def _inside(folder: epath.Path) -> list[epath.Path]:
    """Files and folders in a fixed order, without what systems leave behind, such as ._photo.jpg."""
    try:
        return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: path.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be looked into: {error.strerror or error}") from error


def _images(folder: epath.Path, name: str) -> Iterator[str]:
    """The paths of images in a folder and in those within it, in a fixed order; `name` is the folder's own path."""
    for path in _inside(folder):
        if _is_image(path.name):
            yield f"{name}/{path.name}"
        elif path.is_dir():
            yield from _images(path, f"{name}/{path.name}")


def _is_image(name: str) -> bool:
    return f".{name.rpartition('.')[2].lower()}" in _suffixes()


@functools.cache
def _suffixes() -> frozenset[str]:
    """Of the formats that Pillow opens."""
    return frozenset(suffix for suffix, form in Image.registered_extensions().items() if form in Image.OPEN)


def _listed(names: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(map(repr, names[:SHOWN]))
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
