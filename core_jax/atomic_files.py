"""Files that are there whole or not at all; imports little, since processes that only prepare text use it, too."""

import uuid

from etils import epath


def write_atomically(path: epath.PathLike, content: str | bytes) -> None:
    """Writes a file under another name and renames it: readers see the old content or the new, never a part."""
    path = epath.Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    temporary.write_bytes(data)
    temporary.replace(path)
