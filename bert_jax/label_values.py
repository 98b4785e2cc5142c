"""What stands in the columns of a labelled record: texts, words, classes, numbers and answers.

A mistake is named with the record's place in its file or dataset, or where it has none with its number.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from core_jax.config import require
from core_jax.errors import UserError
from core_jax.labelled_files import PlacedRecord

Record = Mapping[str, Any]
SHOWN = 60  # characters of a wrong value, in messages
ANSWERS = (
    '{"text": [...], "answer_start": [...]}, as many starts as texts, counted in characters from 0; empty lists where '
    "there is no answer"
)


def place_of(record: Record, number: int) -> str:
    """Where a record stands, for messages; `number` of its set, from 0, where it has no place."""
    return record.place if isinstance(record, PlacedRecord) else f"example {number + 1}"


def with_values(record: Record, values: Mapping[str, Any]) -> Record:
    """A record with some columns' values changed, in the same place."""
    changed = {**record, **values}
    return PlacedRecord(record.place, changed) if isinstance(record, PlacedRecord) else changed


def text_in(record: Record, number: int, column: str) -> str:
    """A text, or a number as text.

    Args:
      record, number: as for `place_of`.
      column: where it stands.
    Raises:
      UserError: it is neither.
    """
    value = record[column]
    if value is None or isinstance(value, list | tuple | dict | np.ndarray):
        raise _misfit(record, number, column, "text")
    return str(value)


def words_in(record: Record, number: int, column: str) -> list[Any]:
    """Words or tags: a list of them, or one text, as in tables, which is cut at white space.

    Args:
      record, number: as for `place_of`.
      column: where they stand.
    Raises:
      UserError: they are neither.
    """
    value = record[column]
    if isinstance(value, str):
        return value.split()
    if not isinstance(value, list | tuple | np.ndarray):
        raise _misfit(record, number, column, "a list, or words with blanks between")
    wrong = [part for part in value if part is None or isinstance(part, list | tuple | dict)]
    if wrong:
        place = place_of(record, number)
        raise UserError(f"{place}: column {column!r} holds {wrong[0]!r} in its list; expected words or tags")
    return list(value)


def label_name(label: Any) -> str:
    """A class as its name: a number without a fraction is written without one."""
    if isinstance(label, (float, np.floating)) and float(label).is_integer():
        label = int(label)
    return label.decode() if isinstance(label, bytes) else str(label)


def classes_in(record: Record, number: int, column: str, *, of_words: bool) -> list[str]:
    """The names of a record's classes: one, or that of every word.

    Args:
      record, number: as for `place_of`.
      column: where they stand.
      of_words: whether every word has one.
    Raises:
      UserError: a name is empty, or the column holds no classes of words.
    """
    labels = words_in(record, number, column) if of_words else [record[column]]
    names = [label_name(label) for label in labels]
    require(
        all(name.strip() for name in names),
        f"{place_of(record, number)}: the label in column {column!r} is empty; expected the name of a class",
    )
    return names


def number_in(record: Record, number: int, column: str) -> float:
    """A number, which may be written as text.

    Args:
      record, number: as for `place_of`.
      column: where it stands.
    Raises:
      UserError: it is none, or not finite.
    """
    label = record[column]
    try:
        value = float(label)
    except (TypeError, ValueError):
        value = float("nan")
    if not np.isfinite(value):
        raise UserError(f"{place_of(record, number)} has {label!r} in column {column!r}; expected a number")
    return value


def answers_in(record: Record, number: int, column: str) -> dict[str, list[Any]]:
    """The answers to a question, however they are listed.

    Args:
      record, number: as for `place_of`.
      column: of an object with lists, or with a text and its start, or a list of such objects.
    Returns:
      {"text": list of str, "answer_start": list of int}, as in SQuAD.
    Raises:
      UserError: it is none of these.
    """
    value = record[column]
    objects = value if isinstance(value, list) else [value]
    texts, starts = [], []
    try:
        for part in objects:
            own = _listed(part["text"])
            texts += own
            starts += _listed(part["answer_start"]) if own else []
        whole = [int(start) for start in starts]
        fits = len(whole) == len(texts) and whole == [float(start) for start in starts] and None not in texts
    except (KeyError, TypeError, ValueError, OverflowError):
        fits, whole = False, []
    if not fits:
        raise _misfit(record, number, column, ANSWERS)
    return {"text": [label_name(text) for text in texts], "answer_start": whole}


def _listed(value):
    return list(value) if isinstance(value, list | tuple | np.ndarray) else [value]


def answer_characters(record: Record, number: int, context: str, answers: Mapping[str, Any]) -> tuple[int, int] | None:
    """The first answer's characters in the context, or None where there is none.

    Args:
      record, number: as for `place_of`.
      context: in which it stands.
      answers: from `answers_in`.
    Raises:
      UserError: the context does not hold it there.
    """
    if not answers["text"]:
        return None
    text, start = answers["text"][0], answers["answer_start"][0]
    if not text:
        return None
    found = context[max(start, 0) : max(start + len(text), 0)]
    require(
        start >= 0 and found == text,
        f"{place_of(record, number)}: the answer {text!r} does not stand at character {start} of its context "
        f"(there stands {found!r}); expected answer_start to count characters from 0",
    )
    return start, start + len(text)


def _misfit(record, number, column, expected) -> UserError:
    value = record[column]
    shown = "nothing (null)" if value is None else repr(value)
    shown = shown if len(shown) <= SHOWN else shown[:SHOWN] + "..."
    return UserError(f"{place_of(record, number)}: column {column!r} holds {shown}; expected {expected}")
