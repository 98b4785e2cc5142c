"""Documents of text, one at a time, from a TFDS dataset, text files or JSON lines."""

import difflib
import json
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from etils import epath

from core_jax.errors import UserError

SCHEMES = {
    "sample": "sample (Wikipedia summaries that come with pip install -e '.[sample]')",
    "tfds": "tfds:NAME or tfds:NAME/CONFIG (a TensorFlow Datasets dataset)",
    "text": "text:FILES (UTF-8 text, blank lines between documents; * and ? match)",
    "jsonl": "jsonl:FILES (one JSON object a line; * and ? match)",
}
RECORDS_AT_ONCE = 512  # read together from a dataset: faster than one by one, and little memory
DATASET_NAME = re.compile(r"\w+(/[\w.\-]+)?(:\d[\d.*]*)?")


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
    scheme, place = _parse(data)
    if scheme == "text":
        documents = _text_documents(_matching_files(data, place))
    elif scheme == "jsonl":
        documents = _jsonl_documents(_matching_files(data, place), text_column)
    else:
        builder = _prepared_dataset(scheme, place, data_dir)
        _check_dataset(builder, data, text_column, split)
        documents = _dataset_documents(builder, text_column, split)
    return _at_least_one(documents, data)


def check_source(data: str, *, text_column: str = "text", split: str = "train", data_dir: str | None = None) -> None:
    """Raises for mistakes in the arguments of `read_documents` that show without reading the documents.

    Args:
      data, text_column, split, data_dir: as for `read_documents`.
    Raises:
      UserError: unknown scheme, no such files, dataset, column or split, or the sample wheel is not installed.
    """
    scheme, place = _parse(data)
    if scheme == "text":
        _matching_files(data, place)
    elif scheme == "jsonl":
        next(_jsonl_documents(_matching_files(data, place), text_column), None)
    elif scheme == "sample":
        from core_jax import sample_data

        with sample_data.quiet_logs():
            builder = sample_data.sample_builder(data_dir)
            if not builder.is_prepared():
                sample_data.sample_file()
            _check_dataset(builder, data, text_column, split)
    else:
        _check_dataset(_prepared_dataset(scheme, place, data_dir), data, text_column, split)


def _parse(data: str) -> tuple[str, str]:
    scheme, colon, place = data.partition(":")
    if scheme in SCHEMES and bool(place) == (scheme != "sample"):
        return scheme, place
    expected = "expected one of:\n" + "\n".join(f"  {form}" for form in SCHEMES.values())
    near = difflib.get_close_matches(scheme, SCHEMES, n=1)
    if scheme in SCHEMES:
        advice = f"Type: {SCHEMES[scheme]}"
    elif not colon and re.search(r"[./*]", data):
        advice = f"For files, type: text:{data}"
    elif near:
        advice = f"Did you mean {near[0]}{':' + place if place else ''}?"
    else:
        advice = f"For a dataset of TFDS, type: tfds:{data}" if not colon else ""
    raise UserError(f"data source {data!r} is not understood; {expected}\n{advice}".rstrip())


def _at_least_one(documents: Iterable[str], data: str) -> Iterator[str]:
    found = False
    for document in documents:
        found = True
        yield document
    if not found:
        raise UserError(f"{data} holds no documents: expected at least one line of text")


# Files


def _matching_files(data: str, pattern: str) -> list[epath.Path]:
    try:
        files = _glob(pattern)
    except ImportError as error:  # the file system of gs:// or s3:// is not installed
        raise UserError(
            f"{data} cannot be read: {error}. Type: pip install gcsfs (for gs://) or s3fs (for s3://)"
        ) from error
    if not files:
        raise UserError(
            f"{data}: no file matches. Relative paths start from {epath.Path().resolve()}; look with: ls -d {pattern}"
        )
    for file in files:
        if file.is_dir():
            raise UserError(f"{data}: {file} is a folder, expected files. Type: {data.rstrip('/')}/*")
    return files


def _glob(pattern: str) -> list[epath.Path]:
    path = epath.Path(pattern).expanduser()
    if path.exists():
        return [path]
    # The folder before the first part with a wildcard is where a glob starts.
    parts = str(path).split("/")
    fixed = next((i for i, part in enumerate(parts) if re.search(r"[*?\[]", part)), None)
    if fixed is None:
        return []
    folder = "/".join(parts[:fixed]) or ("/" if fixed else ".")
    return sorted(file for file in epath.Path(folder).glob("/".join(parts[fixed:])))


def _decoded_lines(file: epath.Path) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, from 1; decoded one by one, so that an error names its place."""
    offset = 0
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{file}, line {number}, byte offset {offset + error.start}: the byte "
                    f"0x{line[error.start]:02x} is not valid UTF-8. {_encoding_advice(file)}"
                ) from None
            yield number, text.removeprefix("\ufeff") if number == 1 else text
            offset += len(line)


def _encoding_advice(file: epath.Path) -> str:
    with file.open("rb") as stream:
        start = stream.read(2)
    if start == b"\x1f\x8b":
        return f"The file is compressed. Type: gunzip {file}"
    encoding = "UTF-16" if start in (b"\xff\xfe", b"\xfe\xff") else "WINDOWS-1252"
    return f"If it is {encoding}, type: iconv -f {encoding} -t UTF-8 {file} > {file}.utf8"


def _text_documents(files: list[epath.Path]) -> Iterator[str]:
    for file in files:
        lines = []
        for _, line in _decoded_lines(file):
            if line.strip():
                lines.append(line.rstrip("\r\n"))
            elif lines:
                yield "\n".join(lines)
                lines = []
        if lines:
            yield "\n".join(lines)


def _jsonl_documents(files: list[epath.Path], text_column: str) -> Iterator[str]:
    for file in files:
        for number, line in _decoded_lines(file):
            if line.strip():
                yield _json_text(line, f"{file}:{number}", text_column)


def _json_text(line: str, where: str, text_column: str) -> str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: not JSON ({error.msg} at column {error.colno}); expected one object a line, "
            f'such as {{"{text_column}": "..."}}'
        ) from None
    if not isinstance(row, dict):
        raise UserError(f'{where}: expected an object such as {{"{text_column}": "..."}}, got {line.strip()[:60]}')
    if not isinstance(row.get(text_column), str):
        problem = f"is {type(row[text_column]).__name__}, not text" if text_column in row else "does not exist"
        texts = [key for key, value in row.items() if isinstance(value, str)]
        raise UserError(f"{where}: column {text_column!r} {problem}. {_column_advice(texts)}")
    return row[text_column].encode("utf-8", "replace").decode("utf-8")  # JSON can spell halves of characters


def _column_advice(columns: list[str]) -> str:
    if not columns:
        return "There is no column of text"
    return f"Columns of text: {', '.join(columns)}. Type for example: --text_column={columns[0]}"


# Datasets of TFDS: imported only here, since the import takes half a second


def _prepared_dataset(scheme: str, name: str, data_dir: str | None) -> Any:
    import tensorflow_datasets as tfds

    from core_jax import sample_data

    if scheme == "sample":
        return sample_data.prepare_sample(data_dir)
    folder = data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    build = f"tfds build {name} --file_format=array_record" + (f" --data_dir={data_dir}" if data_dir else "")
    needs = "(TFDS needs TensorFlow for this, once: pip install -e '.[prepare]')"
    if not DATASET_NAME.fullmatch(name):
        raise UserError(f"tfds:{name} is not a name of a dataset; expected NAME, NAME/CONFIG or NAME/CONFIG:VERSION")
    with sample_data.quiet_logs():
        try:
            builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
        except (ValueError, ImportError) as error:  # a dataset whose code needs TensorFlow counts as unknown, too
            near = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False), n=1)
            raise UserError(
                f"tfds:{name} is not among the datasets prepared in {folder}. "
                + (f"Did you mean tfds:{near[0]}? " if near and near[0] != name else "")
                + f"To prepare it, type: {build} {needs}"
            ) from error
        if not builder.is_prepared():
            raise UserError(f"tfds:{name} is not prepared yet in {builder.data_dir}. Type: {build} {needs}")
    found = builder.info.file_format
    if found is not tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"tfds:{name} is prepared as {getattr(found, 'value', found)} in {builder.data_dir}; expected "
            f"array_record, which can be read without TensorFlow. Type: {build} --overwrite {needs}"
        )
    return builder


def _check_dataset(builder: Any, data: str, text_column: str, split: str) -> None:
    columns = [
        name
        for name, feature in builder.info.features.items()
        if feature.shape == () and np.dtype(feature.np_dtype).kind in "OSU"
    ]
    if text_column not in columns:
        raise UserError(f"{data} has no column of text named {text_column!r}. {_column_advice(columns)}")
    splits = list(builder.info.splits) or ["train"]  # the sample before it is prepared
    try:
        known = builder.info.splits[split] is not None if builder.is_prepared() else split.split("[")[0] in splits
    except (KeyError, ValueError):
        known = False
    if not known:
        raise UserError(
            f"{data} has no split {split!r}. Splits: {', '.join(splits)}, or a part of one such as {splits[0]}[:10%]"
        )


def _dataset_documents(builder: Any, text_column: str, split: str) -> Iterator[str]:
    rows = builder.as_data_source(split)
    for start in range(0, len(rows), RECORDS_AT_ONCE):
        numbers = range(start, min(start + RECORDS_AT_ONCE, len(rows)))
        for number, row in zip(numbers, rows.__getitems__(list(numbers)), strict=True):
            text = row[text_column]
            try:
                yield text.decode("utf-8") if isinstance(text, bytes) else str(text)
            except UnicodeDecodeError as error:
                raise UserError(
                    f"example {number} of {builder.info.full_name}, column {text_column!r}, is not UTF-8: {error}. "
                    "Choose a column of text"
                ) from None
