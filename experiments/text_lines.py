"""The texts that predict is given: typed, or the lines of a file or of standard input."""

import io
import itertools
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence

from etils import epath

from core_jax.config import require
from core_jax.errors import UserError
from core_jax.labelled_files import PlacedRecord, whole_characters
from core_jax.text_files import decoded_lines

Line = tuple[str, str]  # where it stands, for messages, and what it holds
OBJECT_BEGINS = re.compile(r"""\s*\{\s*["'}]""")  # as JSON does, or Python's way to print it; {sigh} is a word


def given_lines(texts: Sequence[str], place: str) -> Iterator[Line]:
    """Texts that are typed, or else all lines of a file or of standard input (-), each with its place.

    Args:
      texts: that are typed.
      place: path of a file, or -.
    Raises:
      UserError: there is no such file, or it is not UTF-8.
    """
    if texts:
        return ((f"text {number}", text) for number, text in enumerate(texts, start=1))
    if place == "-":
        return _lines_of_standard_input()
    require(
        os.path.isfile(place), f"--input={place}: no such file; expected one with a text or JSON object a line, or -"
    )
    lines = enumerate(decoded_lines(epath.Path(place), 0), start=1)
    return ((f"{place}:{number}", line.rstrip("\r\n")) for number, (_, line) in lines)


def _lines_of_standard_input() -> Iterator[Line]:
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="strict")  # whatever the terminal's language is
    try:
        for number, line in enumerate(sys.stdin, start=1):
            yield f"standard input, line {number}", line.rstrip("\n")
    except UnicodeDecodeError as error:
        wrong = f"the byte 0x{error.object[error.start]:02x}"
        raise UserError(
            f"standard input is not UTF-8: {wrong}. If it is WINDOWS-1252, send it through: iconv -f WINDOWS-1252"
        ) from None


def given_records(texts: Sequence[str], place: str, needed: Sequence[str]) -> Iterator[PlacedRecord]:
    """The records to label: of JSON lines one for each object, of plain text one for each line, blank ones too.

    Args:
      texts, place: as for `given_lines`.
      needed: columns that the model reads, the text first.
    Raises:
      UserError: as `given_lines`, or a line has not all these columns.
    """
    lines = given_lines(texts, place)
    if not texts:
        lines = _without_blanks_of_json(lines, several_columns=len(needed) > 1)
    return (parse_record(text, where, needed) for where, text in lines)


def _without_blanks_of_json(lines: Iterator[Line], *, several_columns: bool) -> Iterator[Line]:
    """The first line that is not blank tells whether they are JSON lines; those of several columns always are."""
    seen = []
    for line in lines:
        seen.append(line)
        if line[1].strip():
            break
    together = itertools.chain(seen, lines)
    if several_columns or (seen and OBJECT_BEGINS.match(seen[-1][1])):
        return (line for line in together if line[1].strip())
    return together


def parse_record(text: str, place: str, needed: Sequence[str]) -> PlacedRecord:
    """A line -> its record.

    Args:
      text: plain, or a JSON object of columns.
      place: of the line, for messages.
      needed: columns that the model reads, the text first.
    Raises:
      UserError: it has not all columns that the model reads.
    """
    if not OBJECT_BEGINS.match(text):
        example = json.dumps(dict.fromkeys(needed, "..."))
        require(len(needed) == 1, f"{place}: this model reads {', '.join(needed)}; give JSON such as {example}")
        return PlacedRecord(place, {needed[0]: text})
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        plain = json.dumps({needed[0]: text}, ensure_ascii=False)
        advice = f". If it is plain text, write: {plain}" if len(needed) == 1 else ""
        raise UserError(f"{place} is not the JSON object that it looks like: {error}{advice}") from None
    missing = [name for name in needed if name not in record]
    require(not missing, f"{place} lacks {', '.join(missing)}; it has {', '.join(record) or 'nothing'}")
    return PlacedRecord(place, {name: whole_characters(record[name]) for name in needed})
