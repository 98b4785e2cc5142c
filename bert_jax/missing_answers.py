"""Whether the questions that a span model learnt from may be without an answer: kept beside it in labels.json."""

import json

from etils import epath

from bert_jax.labelled_texts import LabelledExamples
from core_jax.workdir import write_atomically

FILE, KEY = "labels.json", "may_be_empty"


def some_are_missing(examples: LabelledExamples, column: str) -> bool | None:
    """Whether a question has no answer; None of examples that are no questions.

    Args:
      examples: with labels.
      column: of the answers.
    """
    if examples.texts.head != "span":
        return None
    return not all(right_answers(examples, column))


def right_answers(examples: LabelledExamples, column: str) -> list[list[str]]:
    """The answers to each question, without empty ones: none where it has no answer.

    Args:
      examples: of a span task, with labels.
      column: of the answers.
    """
    return [[str(text) for text in record[column]["text"] if text] for record in examples.records]


def save_may_be_empty(workdir: str, may_be_empty: bool | None) -> None:
    """Adds to the labels.json of a fine-tuned model whether it learnt to give no answer; of None nothing."""
    if may_be_empty is None:
        return
    file = epath.Path(workdir) / FILE
    content = json.loads(file.read_text()) | {KEY: may_be_empty}
    write_atomically(file, json.dumps(content, indent=2) + "\n")


def read_may_be_empty(workdir: str) -> bool | None:
    """Whether a fine-tuned model learnt to give no answer; None of an older folder, and of hf:DIR, which do not say."""
    file = epath.Path(workdir) / FILE
    return json.loads(file.read_text()).get(KEY) if file.exists() else None
