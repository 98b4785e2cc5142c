"""Documents in text files and JSON lines, whole or in stretches, which share none and lose none."""

import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from etils import epath

from core_jax.errors import UserError


def matching_files(data: str, pattern: str) -> list[epath.Path]:
    """The files that a pattern names, sorted.

    Args:
      data: what the user typed, for messages.
      pattern: a path, in which * and ? match.
    Raises:
      UserError: there are none, a folder is among them, or the file system cannot be read.
    """
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


def text_documents(file: epath.Path, start: int, stop: int) -> Iterator[str]:
    """Documents with blank lines between them. A document belongs to the stretch in which the blank line before starts.

    Args:
      file: to read.
      start, stop: the stretch, in bytes; the first document of the file is in the one that starts at 0.
    Raises:
      UserError: a line is not UTF-8.
    """
    lines = []
    inside = start == 0  # whether the lines that come belong to a document of this stretch
    for offset, line in decoded_lines(file, start):
        if line.strip():
            if inside:
                lines.append(line.rstrip("\r\n"))
            elif offset >= stop:
                return
            continue
        if lines:
            yield "\n".join(lines)
            lines = []
        if offset >= stop:
            return
        inside = True
    if lines:
        yield "\n".join(lines)


def jsonl_documents(file: epath.Path, start: int, stop: int, text_column: str) -> Iterator[str]:
    """The texts of the JSON objects whose lines start in a stretch.

    Args:
      file: to read.
      start, stop: the stretch, in bytes.
      text_column: key of the text.
    Raises:
      UserError: a line is not UTF-8, or not such an object.
    """
    for offset, line in decoded_lines(file, start):
        if offset >= stop:
            return
        if line.strip():
            yield _json_text(line, file, offset, text_column)


def decoded_lines(file: epath.Path, start: int) -> Iterator[tuple[int, str]]:
    """Lines from the first that starts at `start` or later, with the byte that each starts at.

    Args:
      file: to read.
      start: byte.
    Raises:
      UserError: a line is not UTF-8.
    """
    with file.open("rb") as stream:
        offset = start
        if start:
            stream.seek(start - 1)
            offset += len(stream.readline()) - 1  # what is left of the line before
        for line in stream:
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{file}, line {_line_number(file, offset)}, byte offset {offset + error.start}: the byte "
                    f"0x{line[error.start]:02x} is not valid UTF-8. {_encoding_advice(file)}"
                ) from None
            yield offset, text if offset else text.removeprefix("\ufeff")
            offset += len(line)


def _place(file: epath.Path, offset: int) -> str:
    return f"{file}:{_line_number(file, offset)}"


def _line_number(file: epath.Path, offset: int) -> int:
    """Which line starts at a byte, from 1."""
    number = 1
    with file.open("rb") as stream:
        while offset > 0 and (block := stream.read(min(offset, 1 << 20))):
            number += block.count(b"\n")
            offset -= len(block)
    return number


def _encoding_advice(file: epath.Path) -> str:
    with file.open("rb") as stream:
        start = stream.read(2)
    if start == b"\x1f\x8b":
        return f"The file is compressed. Type: gunzip {file}"
    encoding = "UTF-16" if start in (b"\xff\xfe", b"\xfe\xff") else "WINDOWS-1252"
    return f"If it is {encoding}, type: iconv -f {encoding} -t UTF-8 {file} > {file}.utf8"


def json_object(line: str, place: Callable[[], str], columns: Sequence[str]) -> dict[str, Any]:
    """A line of JSON lines.

    Args:
      line: of the file.
      place: says where it is, for messages.
      columns: that an object is to have, for messages.
    Raises:
      UserError: it is no object.
    """
    sample = "{" + ", ".join(f'"{name}": "..."' for name in columns) + "}"
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{place()}: not JSON ({error.msg} at column {error.colno}); expected one object a line, such as {sample}"
        ) from None
    if not isinstance(row, dict):
        raise UserError(f"{place()}: expected an object such as {sample}, got {line.strip()[:60]}")
    return row


def _json_text(line: str, file: epath.Path, offset: int, text_column: str) -> str:
    row = json_object(line, lambda: _place(file, offset), [text_column])
    if not isinstance(row.get(text_column), str):
        problem = f"is {type(row[text_column]).__name__}, not text" if text_column in row else "does not exist"
        texts = [key for key, value in row.items() if isinstance(value, str)]
        raise UserError(f"{_place(file, offset)}: column {text_column!r} {problem}. {column_advice(texts)}")
    return row[text_column].encode("utf-8", "replace").decode("utf-8")  # JSON can spell halves of characters


def column_advice(columns: list[str]) -> str:
    """What to type where the column of text is another."""
    if not columns:
        return "There is no column of text"
    return f"Columns of text: {', '.join(columns)}. Type for example: --text_column={columns[0]}"


def characters_before(text: str) -> list[int]:
    """How many characters of a text begin before each byte of its UTF-8, and before its end.

    It is for libraries that count bytes. Inside a character of several bytes it is counted already.
    """
    return [0, *itertools.accumulate((byte & 0xC0) != 0x80 for byte in text.encode())]  # later bytes begin with 10
