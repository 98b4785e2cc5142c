"""Whether the questions that a span model learns from may be without an answer."""

from bert_jax.labelled_texts import LabelledExamples


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
