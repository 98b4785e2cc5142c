"""Labelled examples in files: JSON lines, tables with a header, tagged words (CoNLL) and questions (SQuAD)."""

import csv
import difflib
import json
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from etils import epath

from core_jax.errors import UserError
from core_jax.text_files import decoded_lines, json_object

Record = dict[str, Any]
QUESTION_COLUMNS = ("id", "question", "context", "answers")
DOCUMENT_MARK = "-DOCSTART-"  # CoNLL-2003 begins each document with a line of it


class PlacedRecord(Record):
    """A record that knows where it stands in its file or dataset, for messages."""

    __slots__ = ("place",)

    def __init__(self, place: str, values: Record):
        """Of values by column, at a `place` such as reviews.csv:7."""
        super().__init__(values)
        self.place = place


def check_columns(place: str, wanted: Sequence[str], found: Collection[str]) -> None:
    """Raises where a column is missing.

    Args:
      place: what should have it, for messages.
      wanted: columns to read.
      found: columns that there are.
    Raises:
      UserError: with the columns that there are.
    """
    missing = next((name for name in wanted if name not in found), None)
    if missing is None:
        return
    near = difflib.get_close_matches(missing, found, n=1)
    raise UserError(
        f"{place} has no column {missing!r}. Columns: {', '.join(map(repr, found)) or 'none'}. "
        + (f"Did you mean {near[0]!r}? " if near else "")
        + "Say which to read with the flags that end in _column, such as --label_column=NAME or --source_column=NAME"
    )


def json_records(file: epath.Path, columns: Sequence[str]) -> Iterator[Record]:
    """One JSON object a line; blank lines are skipped.

    Args:
      file: to read.
      columns: keys that every object must have.
    Returns:
      Of each object, these.
    Raises:
      UserError: a line is not UTF-8, no object, or lacks a column.
    """
    for number, (_, line) in enumerate(decoded_lines(file, 0), start=1):
        if not line.strip():
            continue
        place = f"{file}:{number}"
        row = json_object(line, lambda place=place: place, columns)
        check_columns(place, columns, row)
        empty = next((name for name in columns if row[name] is None), None)
        if empty is not None:
            raise UserError(f"{place}: column {empty!r} is null; expected text, a number or a list")
        values = {name: whole_characters(row[name]) if "\\u" in line else row[name] for name in columns}
        yield PlacedRecord(place, values)


def whole_characters(value: Any) -> Any:
    """JSON can spell halves of characters, which nothing can write down again."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [whole_characters(part) for part in value]
    return {name: whole_characters(part) for name, part in value.items()} if isinstance(value, dict) else value


def comma_records(file: epath.Path, columns: Sequence[str]) -> Iterator[Record]:
    """A table with commas between columns and their names in the first line; "..." may hold commas and line ends.

    Args:
      file: to read.
      columns: to read.
    Returns:
      These columns of each row; every value is text.
    Raises:
      UserError: a line is not UTF-8, a column is missing, or a row has more or fewer columns than the first.
    """
    lines = (line for _, line in decoded_lines(file, 0))
    return _table_records(file, columns, csv.reader(lines, strict=True))


def tab_records(file: epath.Path, columns: Sequence[str]) -> Iterator[Record]:
    """As `comma_records`, with tabs between; quotation marks are characters like any other, as in the files of GLUE."""
    lines = (line for _, line in decoded_lines(file, 0))
    return _table_records(file, columns, csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def _table_records(file, columns, reader) -> Iterator[Record]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # texts are longer than the cells that the default expects
    header: list[str] | None = None
    places: dict[str, int] = {}
    for number, row in _table_rows(file, reader):
        if header is None:
            header = row
            check_columns(f"{file}, line {number},", columns, header)
            double = next((name for name in columns if header.count(name) > 1), None)
            if double is not None:
                raise UserError(f"{file}, line {number}, names the column {double!r} twice; expected each once")
            places = {name: header.index(name) for name in columns}
            continue
        if len(row) != len(header):
            raise UserError(f"{file}:{number}: {len(row)} columns; the first line names {len(header)}: {header}")
        yield PlacedRecord(f"{file}:{number}", {name: row[place] for name, place in places.items()})


def _table_rows(file, reader) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, with the line that each starts on."""
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"{file}: the row that starts on line {number} cannot be read: {error}") from None
        if row:
            yield number, row


def tagged_records(file: epath.Path, columns: Sequence[str]) -> Iterator[Record]:
    """Sentences with blank lines between; of each line, the first column is a word and the last its tag.

    Args:
      file: to read, with blanks or tabs between columns.
      columns: `tokens` and `tags`, or one of them.
    Returns:
      Lists, one for each sentence. Lines that mark a document are skipped.
    Raises:
      UserError: a line is not UTF-8, or has no tag.
    """
    check_columns(str(file), columns, ("tokens", "tags"))
    sentence: list[tuple[str, str]] = []
    first = 0  # line of the sentence's first word
    for number, (_, line) in enumerate(decoded_lines(file, 0), start=1):
        line = line.strip(" \r\n")
        parts = re.split(r"\t" if "\t" in line else " +", line)
        if not line.strip("\t") or parts[0] == DOCUMENT_MARK:
            if sentence:
                yield PlacedRecord(f"{file}:{first}", _tagged(sentence, columns))
            sentence = []
            continue
        if "tags" in columns and (len(parts) == 1 or not parts[-1]):
            raise UserError(f"{file}:{number}: no tag in {line[:60]!r}; expected a word, a blank or tab, and its tag")
        first = first if sentence else number
        sentence.append((parts[0], parts[-1]))
    if sentence:
        yield PlacedRecord(f"{file}:{first}", _tagged(sentence, columns))


def _tagged(sentence, columns):
    tokens, tags = map(list, zip(*sentence, strict=True))
    return {name: {"tokens": tokens, "tags": tags}[name] for name in columns}


def question_records(file: epath.Path, columns: Sequence[str]) -> Iterator[Record]:
    """The questions of a file of SQuAD, version 1.1 or 2.0.

    Args:
      file: to read.
      columns: of `id`, `question`, `context` and `answers`, which is {"text": list, "answer_start": list}: empty lists
        where there is no answer.
    Raises:
      UserError: it is not such a file.
    Source: https://rajpurkar.github.io/SQuAD-explorer
    """
    check_columns(str(file), columns, QUESTION_COLUMNS)
    text = "".join(line for _, line in decoded_lines(file, 0))
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{file}:{error.lineno}: not JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        raise UserError(f'{file} is not a file of SQuAD; expected {{"data": [{{"paragraphs": [...]}}]}}')
    for number, article in enumerate(content["data"], start=1):
        try:
            for place, record in enumerate(_questions(article, columns), start=1):
                yield PlacedRecord(f"{file}, question {place} of article {number}", record)
        except (KeyError, TypeError) as error:
            wrong = f"there is no {error}" if isinstance(error, KeyError) else str(error)
            raise UserError(f"{file}, article {number}, is not as in SQuAD: {wrong}") from None


def _questions(article, columns):
    for paragraph in article["paragraphs"]:
        for question in paragraph["qas"]:
            record = {name: question[name] for name in ("id", "question") if name in columns}
            if "context" in columns:
                record["context"] = paragraph["context"]
            if "answers" in columns:
                given = [] if question.get("is_impossible") else question["answers"]
                record["answers"] = {key: [answer[key] for answer in given] for key in ("text", "answer_start")}
            yield {name: record[name] for name in columns}


READERS: dict[str, Callable[[epath.Path, Sequence[str]], Iterator[Record]]] = {
    "jsonl": json_records,
    "csv": comma_records,
    "tsv": tab_records,
    "conll": tagged_records,
    "squad": question_records,
}
