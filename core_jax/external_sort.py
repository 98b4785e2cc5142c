"""Sorting of more records than fit into memory: equal keys meet in a bucket that does."""

import contextlib
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator

import numpy as np

RECORDS_AT_ONCE = 2_000_000  # in memory
OPEN_FILES = 256


def sorted_buckets(
    read: Callable[[], Iterable[np.ndarray]],
    count: int,
    folder: pathlib.Path,
    *,
    records_at_once: int = RECORDS_AT_ONCE,
    open_files: int = OPEN_FILES,
) -> Iterator[np.ndarray]:
    """Groups records by key.

    Args:
      read: gives all records, part by part, as structured arrays with a field "key", uint64, whose values are spread
        evenly (hashes); it is called again where there are more buckets than files may be open.
      count: of the records, at most.
      folder: room for the buckets.
      records_at_once: of a bucket, about.
      open_files: at a time.
    Yields:
      Arrays of records, not empty, ascending by key; those of one key are in one array, in the order of `read`.
    """
    buckets = max(1, -(-count // records_at_once))
    if buckets == 1:
        parts = list(read())
        if parts and sum(map(len, parts)):
            yield _sorted(np.concatenate(parts))
        return
    for first in range(0, buckets, open_files):
        numbers = range(first, min(first + open_files, buckets))
        with tempfile.TemporaryDirectory(dir=folder) as room:
            dtype = _distribute(read(), buckets, numbers, pathlib.Path(room))
            for number in numbers:
                file = pathlib.Path(room, str(number))
                if file.stat().st_size and dtype is not None:
                    yield _sorted(np.fromfile(file, dtype))
                file.unlink()


def _distribute(parts: Iterable[np.ndarray], buckets: int, numbers: range, room: pathlib.Path) -> np.dtype | None:
    """Appends records to the files of their buckets, of those in `numbers`; returns their type."""
    dtype = None
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(room / str(number), "wb")) for number in numbers]
        for part in parts:
            dtype, belongs = part.dtype, (part["key"] % np.uint64(buckets)).astype(np.int64)
            order = np.argsort(belongs, kind="stable")
            ends = np.searchsorted(belongs[order], np.arange(numbers.start, numbers.stop + 1))
            for file, start, end in zip(files, ends[:-1], ends[1:], strict=True):
                part[order[start:end]].tofile(file)
    return dtype


def _sorted(records: np.ndarray) -> np.ndarray:
    return records[np.argsort(records["key"], kind="stable")]
