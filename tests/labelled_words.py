"""Labelled examples of made-up words for every head, and a tokenizer for them."""

import dataclasses
from typing import Any

import numpy as np

from bert_jax.config import BertConfig
from bert_jax.labelled_texts import Columns, LabelledExamples, encode_examples
from bert_jax.model import BertForLabels, Head
from bert_jax.tokenizer import SPECIAL_PIECES, WordPiece

WORDS = [f"w{number}" for number in range(30)]
CLASSES = ["low", "middle", "high"]
TAGS = ["O", "B-x", "I-x"]
LENGTH = 32
HEADS: tuple[Head, ...] = ("classification", "regression", "token", "span", "choice")
CLASS_NAMES = {"classification": CLASSES, "token": TAGS}
COLUMNS = Columns("text", "second", "label", ())
CONFIG = BertConfig(
    width=16,
    depth=1,
    heads=2,
    mlp_width=24,
    vocab_size=len(SPECIAL_PIECES) + len(WORDS) + 2,
    maximum_positions=LENGTH,
    dropout=0.0,
    attention_dropout=0.0,
    initializer_range=0.2,
    dtype="float32",
)


def tokenizer() -> WordPiece:
    """Knows the words and two endings."""
    return WordPiece.from_vocabulary([*SPECIAL_PIECES, *WORDS, "##s", "##t"], lowercase=True)


def records(head: Head, count: int = 24, seed: int = 0) -> list[dict]:
    """Examples of many lengths; labels follow from the words."""
    random = np.random.default_rng(seed)

    def words(low, high):
        return [
            str(word) + str(random.choice(["", "s", "t"])) for word in random.choice(WORDS, random.integers(low, high))
        ]

    found = []
    for _ in range(count):
        text, second = words(1, 9), words(1, 4)
        record: dict[str, Any] = {"text": " ".join(text), "second": " ".join(second)}
        if head == "classification":
            record["label"] = CLASSES[int(random.integers(len(CLASSES)))]
        elif head == "regression":
            record["label"] = float(random.normal())
        elif head == "choice":
            record |= {"a": " ".join(words(1, 4)), "b": " ".join(words(1, 4)), "label": int(random.integers(2))}
        elif head == "token":
            record |= {"text": text, "label": [TAGS[int(random.integers(len(TAGS)))] for _ in text]}
        else:
            parts = words(2, 30)
            context, place = " ".join(parts), int(random.integers(len(parts)))
            there = {"text": [parts[place]], "answer_start": [len(" ".join([*parts[:place], ""]))]}
            record |= {"text": context, "label": there if random.random() < 0.8 else {"text": [], "answer_start": []}}
        found.append(record)
    return found


def columns(head: Head) -> Columns:
    if head == "token":
        return dataclasses.replace(COLUMNS, second="")
    return dataclasses.replace(COLUMNS, choices=("a", "b") if head == "choice" else ())


def examples(head: Head, count: int = 24, seed: int = 0) -> LabelledExamples:
    """Them, encoded; windows of a span task overlap."""
    return encode_examples(
        records(head, count, seed),
        tokenizer(),
        head=head,
        columns=columns(head),
        classes=CLASS_NAMES.get(head, []),
        sequence_length=LENGTH,
        stride=4,
    )


def model(head: Head, **changes) -> BertForLabels:
    outputs = {"regression": 1, "span": 2, "choice": 1}
    return BertForLabels(dataclasses.replace(CONFIG, **changes), head, outputs.get(head, 3))
