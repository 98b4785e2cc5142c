"""What `experiments.predict` does with a fine-tuned model: labels texts, one JSON object a line."""

import itertools
import json
import sys
from collections.abc import Sequence

import jax
import numpy as np

from bert_jax.answers import Answers, collect_answers, predictions
from bert_jax.finetuning import LabelModel, encode, wanted_columns
from bert_jax.foreign_label_models import open_any_label_model
from bert_jax.label_values import Record
from bert_jax.labelling import make_answers
from core_jax.config import require
from core_jax.sharding import parse_mesh
from experiments.console import report
from experiments.text_lines import given_records

TEXTS_AT_ONCE = 1024  # read, labelled and written together
BATCH = 64


def label(init: str, texts: Sequence[str], place: str, mesh_text: str) -> int:
    """Labels texts and prints JSON lines; returns the exit code.

    Args:
      init: work folder of a fine-tuning run, or hf:DIR.
      texts: plain, or JSON objects of columns; where there are none, they are read.
      place: a file with one a line, or "-": standard input. Blank lines are texts where lines are plain.
      mesh_text: devices by axis.
    Raises:
      UserError: there is no text, it is not as the model reads it, or there is no such model.
    """
    require(bool(texts or place), "no text given; type one, give --input=FILE, or send lines to standard input")
    mesh = parse_mesh(mesh_text)
    tuned = open_any_label_model(init, mesh, lambda message: print(message, file=sys.stderr))
    answer = make_answers(tuned.model)
    given = given_records(texts, place, wanted_columns(tuned.labels, labelled=False))
    while records := list(itertools.islice(given, TEXTS_AT_ONCE)):
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
        _print(examples.records, answers, tuned)
    return 0


def _print(records: Sequence[Record], answers: Answers, tuned: LabelModel) -> None:
    if jax.process_index() != 0:
        return
    head, shown = tuned.model.head, wanted_columns(tuned.labels, labelled=False)
    may_be_empty = tuned.may_be_empty is not False  # an older folder does not say
    found = predictions(answers, head, tuned.classes, may_be_empty=may_be_empty)
    for record, value, raw in zip(records, found, answers.values, strict=True):
        line = {name: record[name] for name in shown} | {"tags" if head == "token" else "label": value}
        if head in ("classification", "choice"):
            shares = np.exp((raw - raw.max()).astype(np.float64))  # float32 would be printed with all its digits
            shares = (shares / shares.sum()).round(6).tolist()
            names = tuned.classes or [str(number) for number in range(len(shares))]
            line["probabilities"] = dict(zip(names, shares, strict=True))
        report(json.dumps(line, ensure_ascii=False))
