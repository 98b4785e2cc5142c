"""What `experiments.predict` does with a fine-tuned model: labels texts, one JSON object a line."""

import contextlib
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from bert_jax.answers import Answers, collect_answers, predictions
from bert_jax.finetuning import LabelModel, encode, open_label_model, wanted_columns
from bert_jax.labelling import make_answers
from bert_jax.missing_answers import read_may_be_empty
from bert_jax.model import Head
from core_jax.config import require
from core_jax.errors import UserError
from core_jax.sharding import parse_mesh
from experiments.console import report

TEXTS_AT_ONCE = 1024  # read, labelled and written together
BATCH = 64


def label(init: str, texts: Sequence[str], place: str, mesh_text: str) -> int:
    """Labels texts and prints JSON lines; returns the exit code.

    Args:
      init: work folder of a fine-tuning run.
      texts: plain, or JSON objects of columns; where there are none, they are read.
      place: a file with one a line, or "-": standard input.
      mesh_text: devices by axis.
    """
    require(bool(texts or place), "no text given; type one, give --input=FILE, or send lines to standard input")
    mesh = parse_mesh(mesh_text)
    tuned = open_label_model(init, mesh, lambda message: print(message, file=sys.stderr))
    head, needed = tuned.model.head, wanted_columns(tuned.labels, labelled=False)
    answer = make_answers(tuned.model)
    may_be_empty = read_may_be_empty(init) is not False  # an older folder does not say
    with given_lines(texts, place) as lines:
        numbered = enumerate(lines, start=1)
        while part := list(itertools.islice(numbered, TEXTS_AT_ONCE)):
            records = [parse_record(text, number, head, needed) for number, text in part]
            examples = encode(tuned.labels, records, tuned.tokenizer, tuned.classes, labelled=False)
            answers = collect_answers(
                answer,
                tuned.params,
                examples,
                mesh,
                batch_size=BATCH,
                sequence_length=tuned.labels.sequence_length,
                context_column=tuned.labels.text_column,
            )
            assert answers is not None
            _print(records, answers, tuned, may_be_empty)
    return 0


@contextlib.contextmanager
def given_lines(texts: Sequence[str], place: str) -> Iterator[Iterable[str]]:
    """Texts that are given, or else the lines of a file or of standard input (-)."""
    if texts or place == "-":
        yield texts or (line.rstrip("\n") for line in sys.stdin if line.strip())
        return
    if not os.path.isfile(place):
        raise UserError(f"--input={place}: no such file; expected one with a text or JSON object a line, or -")
    with open(place, encoding="utf-8") as file:
        yield (line.rstrip("\n") for line in file if line.strip())


def parse_record(text: str, number: int, head: Head, needed: Sequence[str]) -> dict[str, Any]:
    """A line -> its record.

    Args:
      text: plain, or a JSON object of columns.
      number: of the line, for messages.
      head: what is labelled.
      needed: columns that the model reads, the text first.
    Raises:
      UserError: it has not all columns that the model reads.
    """
    try:
        record: Any = json.loads(text) if text.lstrip().startswith("{") else None
    except json.JSONDecodeError as error:
        raise UserError(f"text {number} is not the JSON object that it looks like: {error}") from None
    if record is None:
        example = json.dumps(dict.fromkeys(needed, "..."))
        require(len(needed) == 1, f"text {number}: this model reads {', '.join(needed)}; give JSON such as {example}")
        record = {needed[0]: text}
    missing = [name for name in needed if name not in record]
    require(not missing, f"text {number} lacks {', '.join(missing)}; it has {', '.join(record) or 'nothing'}")
    if head == "token" and isinstance(record[needed[0]], str):
        record[needed[0]] = record[needed[0]].split()
    return record


def _print(records: Sequence[dict[str, Any]], answers: Answers, tuned: LabelModel, may_be_empty: bool) -> None:
    if jax.process_index() != 0:
        return
    head, shown = tuned.model.head, wanted_columns(tuned.labels, labelled=False)
    found = predictions(answers, head, tuned.classes, may_be_empty=may_be_empty)
    for record, value, raw in zip(records, found, answers.values, strict=True):
        line = {name: record[name] for name in shown} | {"tags" if head == "token" else "label": value}
        if head in ("classification", "choice"):
            shares = np.exp((raw - raw.max()).astype(np.float64))  # float32 would be printed with all its digits
            shares = (shares / shares.sum()).round(6).tolist()
            names = tuned.classes or [str(number) for number in range(len(shares))]
            line["probabilities"] = dict(zip(names, shares, strict=True))
        report(json.dumps(line, ensure_ascii=False))
