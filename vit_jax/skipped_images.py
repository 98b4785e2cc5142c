"""Which images could not be read and were skipped: a small file for each, which any process of any host can add."""

import dataclasses
import hashlib
from collections.abc import Sequence

from etils import epath

from core_jax.atomic_files import write_atomically

SHOWN = 3  # names in a message


@dataclasses.dataclass(frozen=True)
class SkippedImages:
    """The images that were skipped, each once however often it was met.

    Attributes:
      folder: gets a file for each, so that those that other processes met are known too; empty: none is written.
      met: by this process, {name: why}.
    """

    folder: str = ""
    met: dict[str, str] = dataclasses.field(default_factory=dict, compare=False)

    def add(self, name: str, message: str) -> None:
        """Notes an image and why it cannot be read."""
        if self.met.get(name) == message:
            return
        self.met[name] = message
        if self.folder:
            file = epath.Path(self.folder) / f"{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:16]}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            text = " ".join(name.splitlines()) + "\n" + message
            write_atomically(file, text.encode("utf-8", "replace"))

    def names(self) -> list[str]:
        """Of the images that were skipped, sorted."""
        return sorted(self._reasons())

    def messages(self) -> list[str]:
        """Why each image was skipped, sorted."""
        return sorted(self._reasons().values())

    def _reasons(self) -> dict[str, str]:
        folder = epath.Path(self.folder)
        if not self.folder or not folder.is_dir():
            return dict(self.met)
        texts = [file.read_text().partition("\n") for file in folder.iterdir() if file.suffix == ".txt"]
        return {name: message or name for name, _, message in texts}


def describe_skipped(count: int, names: Sequence[str]) -> str:
    """One line on images that were skipped: how many, and the names of the first few."""
    first = names[:SHOWN]
    more = f", ... (and {count - len(first):,} more)" if count > len(first) else ""
    images = "1 image" if count == 1 else f"{count:,} images"
    return f"{images} could not be read and {'was' if count == 1 else 'were'} left out: {', '.join(first)}{more}"
