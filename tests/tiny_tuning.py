"""A fine-tuning run of seconds: a small random BERT as another program saves it, and labelled made-up words."""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from bert_jax.labelling import initial_label_params
from bert_jax.model import Head
from bert_jax.weights import write_hf
from core_jax.workdir import read_records
from experiments.console import StopRequest
from tests.labelled_words import columns, model, records, tokenizer

FIRST_WORDS = {"low": "w0", "high": "w1"}  # of the texts of a class
TASK_FLAGS: dict[Head, dict[str, str]] = {
    "classification": {},
    "regression": {},
    "token": {"second_text_column": ""},
    "span": {},
    "choice": {"second_text_column": "", "choice_columns": "a,b"},
}


def write_start(folder: pathlib.Path, **changes: Any) -> pathlib.Path:
    """A folder of `transformers` with a random encoder, whose config may be changed."""
    start = model("classification", **changes)
    params = initial_label_params(start)(jax.random.key(0))
    encoder = {"bert": jax.tree.map(np.asarray, params["bert"])}
    write_hf(folder, start.config, tokenizer(), encoder, "BertModel")
    return folder


def write_records(path: pathlib.Path, head: Head, count: int = 48, seed: int = 0) -> pathlib.Path:
    """A file of labelled texts. The first word tells the class, so that it can be learnt."""
    found = records(head, count, seed)
    for number, record in enumerate(found):
        if head == "classification":
            name = ("low", "high")[number % 2]
            record |= {"label": name, "text": f"{FIRST_WORDS[name]} {record['text']}"}
    path.write_text("".join(json.dumps(record) + "\n" for record in found))
    return path


def flags(head: Head, folder: pathlib.Path, workdir: pathlib.Path, **changes: object) -> list[str]:
    """The command line of a tiny run, from the start and the records in a folder."""
    values = {
        "task": head,
        "init": f"hf:{folder}/start",
        "data": f"jsonl:{folder}/{head}.jsonl",
        "workdir": workdir,
        "second_text_column": columns(head).second,
        "sequence_length": 32,
        "global_batch_size": 16,
        "held_out": 0.25,
        "epochs": 15,
        "learning_rate": 0.02,
        "dropout": 0.1,
        "log_every": 2,
        "mesh": "data:1",
    }
    values |= TASK_FLAGS[head] | changes
    return [f"--{name}={value}" for name, value in values.items()]


def summary(workdir: pathlib.Path) -> dict:
    """summary.json of a run."""
    return json.loads((workdir / "summary.json").read_text())


def lines(workdir: pathlib.Path, split: str) -> list[dict]:
    """Lines of metrics.jsonl of a split."""
    return [line for line in read_records(workdir) if line["split"] == split]


def stop_after(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """As if somebody asked the run to end just before it looks for the so-many-th time."""
    asked = []

    def stopping(self):
        asked.append(0)
        return len(asked) >= times

    monkeypatch.setattr(StopRequest, "__call__", stopping)
