"""Files and folders that are there whole or not at all; imports little: processes that prepare text use it, too."""

import contextlib
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator

from etils import epath


def write_atomically(path: epath.PathLike, content: str | bytes) -> None:
    """Writes a file under another name and renames it: readers see the old content or the new, never a part."""
    path = epath.Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    temporary.write_bytes(data)
    temporary.replace(path)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A folder to fill, which gets its name at the end; where filling fails, nothing is left.

    Args:
      path: of a local folder; when the block ends, nothing or an empty folder may be there.
    Yields:
      The folder, under another name.
    """
    path = pathlib.Path(path)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
