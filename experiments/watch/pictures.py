"""The pictures of a run, small enough to stand in the page itself."""

import base64
import dataclasses
import functools
import io

from etils import epath
from PIL import Image

PICTURES = {  # of a work folder, in the order in which they are shown
    "samples.png": "What the model sees in training",
    "reconstructions.png": "Hidden patches and how they are filled",
    "confusion_matrix.png": "Which classes are taken for which",
    "evaluation.png": "Which classes are taken for which, by experiments.evaluate",
}
LARGEST_BYTES = 150_000  # of a picture that is shown as it is
LONGEST_SIDE = 1000  # pixels of one that is not
PAGE_BYTES = 2_000_000  # of all pictures: those beyond are named only


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture as a page holds it."""

    title: str
    rank: int  # by which pictures of one kind stand together
    path: str
    uri: str  # data: and all that it is
    width: int  # pixels
    height: int


def find_pictures(workdir: epath.Path) -> list[Picture]:
    """Those that lie in a work folder and can be read, as they are now."""
    found = []
    for name in PICTURES:
        path = workdir / name
        if path.exists():
            try:
                found.append(_load(str(path), name, path.stat().mtime))
            except (OSError, ValueError):  # no picture; the run writes its own in one go
                continue
    return found


@functools.lru_cache(maxsize=256)
def _load(path: str, name: str, changed: float) -> Picture:
    """Reads a picture; `changed` is when it was written, so that a new one is read again."""
    del changed
    data = epath.Path(path).read_bytes()
    picture = Image.open(io.BytesIO(data))
    picture.load()
    kind = "png"
    if len(data) > LARGEST_BYTES:
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        shrunk = io.BytesIO()
        picture.convert("RGB").save(shrunk, format="WEBP", quality=85)
        data, kind = shrunk.getvalue(), "webp"
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Picture(PICTURES[name], list(PICTURES).index(name), path, uri, *picture.size)
