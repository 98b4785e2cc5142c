"""Which images could not be read and were skipped: a small file for each, which any process of any host can add."""

import dataclasses
import hashlib

from etils import epath

from core_jax.atomic_files import write_atomically


@dataclasses.dataclass(frozen=True)
class SkippedImages:
    """A folder with a file for each image that was skipped, however often it was met; empty: nothing is kept."""

    folder: str = ""

    def add(self, message: str) -> None:
        """Notes an image; the message names it."""
        if not self.folder:
            return
        file = epath.Path(self.folder) / f"{hashlib.sha256(message.encode('utf-8', 'replace')).hexdigest()[:16]}.txt"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, message.encode("utf-8", "replace"))

    def messages(self) -> list[str]:
        """Why each image was skipped, sorted."""
        folder = epath.Path(self.folder)
        if not self.folder or not folder.is_dir():
            return []
        return sorted(file.read_text() for file in folder.iterdir() if file.suffix == ".txt")
