"""From a model's logits to answers, one for each example, and their scores: every example is asked exactly once.

Axes: N texts, G examples, C classes, T positions of a row.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Float32, PyTree

from bert_jax.labelled_rows import IGNORED, scoring_batches
from bert_jax.labelled_texts import Columns, LabelledExamples
from bert_jax.missing_answers import right_answers
from bert_jax.model import Head
from bert_jax.scores import (
    answer_scores,
    best_no_answer_threshold,
    entity_scores,
    regression_scores,
)
from core_jax.class_scores import classification_scores
from core_jax.metrics import means
from core_jax.train import Metrics

LONGEST_ANSWER = 30  # tokens; Devlin et al. 2018, run_squad.py
CANDIDATES = 20  # first and last tokens that are tried together
# What chooses the best epoch.
METRICS: dict[str, str] = {
    "classification": "accuracy",
    "regression": "spearman",
    "token": "f1",
    "span": "f1",
    "choice": "accuracy",
}
Answer = Callable[[PyTree, dict[str, Any]], tuple[Any, Metrics]]


@dataclasses.dataclass(frozen=True)
class Span:
    """An answer in a context."""

    text: str  # "" where there is none
    score: float  # sum of the logits of its first and last token
    no_answer_score: float  # the same of [CLS], the lowest over all windows


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model says of every example."""

    loss: float  # mean over all that is labelled; 0 where nothing is
    values: Sequence[Any]  # logits Float[C] of a text or choice, a number, the class of each word, or a `Span`


def collect_answers(
    answer: Answer,
    params: PyTree,
    examples: LabelledExamples,
    mesh: Mesh,
    *,
    batch_size: int,
    sequence_length: int,
    context_column: str = "text",
    stopping: Callable[[], bool] = lambda: False,
) -> Answers | None:
    """Asks the model about every example.

    Args:
      answer: from `make_answers`.
      params: of the model.
      examples: to ask about.
      mesh: where it is computed.
      batch_size: examples of a batch; the answers do not depend on it.
      sequence_length: positions of a row at most.
      context_column: of a span task.
      stopping: asked after each batch.
    Returns:
      The answers, or None where `stopping()` became true.
    """
    data, found, metrics = examples.texts, {}, []
    with jax.set_mesh(mesh):
        for texts, batch, on_devices in scoring_batches(
            data, mesh, batch_size=batch_size, sequence_length=sequence_length
        ):
            if stopping():
                return None
            logits, terms = answer(params, on_devices)
            metrics.append(terms)
            logits = multihost_utils.process_allgather(logits, tiled=True) if jax.process_count() > 1 else logits
            _sort_out(found, np.asarray(logits), texts, batch, data.head)
    missing = set(range(len(data.tokens))) - found.keys()
    if missing:  # a score of a part would be a wrong score
        raise AssertionError(f"{len(missing)} of {len(data.tokens)} texts were not answered")
    loss = sum(means(jax.device_get(metrics)).values())
    return Answers(
        loss, answers_by_example(examples, [found[text] for text in range(len(data.tokens))], context_column)
    )


def _sort_out(found, logits, texts, batch, head):
    """Puts what stands in packed rows under the number of its text."""
    for row, column in zip(*np.nonzero(texts >= 0), strict=True):
        text, start = int(texts[row, column]), batch["cls_positions"][row, column]
        stop = start + int((batch["segments"][row] == column + 1).sum())
        if text in found:
            raise AssertionError(f"text {text} was answered twice")
        if head == "token":
            found[text] = logits[row, start:stop]
        else:
            found[text] = logits[row, column, :, start:stop] if head == "span" else logits[row, column]


def answers_by_example(examples: LabelledExamples, found: Sequence[np.ndarray], context_column: str) -> list[Any]:
    """From the logits of every text to one answer for each example.

    Args:
      examples: that were asked about.
      found: logits of each of their texts: Float[C], of tokens Float[T, C], of spans Float[2, T].
      context_column: of a span task.
    Returns:
      As in `Answers.values`.
    """
    data = examples.texts
    groups: list[list[int]] = [[] for _ in examples.records]
    for text, example in enumerate(data.examples.tolist()):
        groups[example].append(text)
    if data.head == "classification":
        return [found[group[0]] for group in groups]
    if data.head == "regression":
        return [float(found[group[0]][0]) for group in groups]
    if data.head == "choice":
        return [np.array([found[text][0] for text in group]) for group in groups]
    if data.head == "token":
        return [
            np.concatenate([found[text][examples.words[text]].argmax(-1) for text in group]).tolist()
            for group in groups
        ]
    return [
        best_span([(found[text], examples.windows[text]) for text in group], str(record[context_column]))
        for group, record in zip(groups, examples.records, strict=True)
    ]


def best_span(windows: Sequence[tuple[Float32[np.ndarray, "2 _"], Any]], context: str) -> Span:
    """The most probable span over all windows of a context.

    Args:
      windows: logits of first and last token at each position of a window's text, and the window.
      context: the whole.
    Source: Devlin et al. 2018, section 4.2 and 4.3; run_squad.py of google-research/bert
    """
    best, text = -np.inf, ""
    for logits, window in windows:
        first, last = logits[:, window.start : window.start + len(window.places)]
        for i in np.argsort(-first, kind="stable")[:CANDIDATES]:
            for j in np.argsort(-last, kind="stable")[:CANDIDATES]:
                if i <= j < i + LONGEST_ANSWER and first[i] + last[j] > best:
                    best, text = float(first[i] + last[j]), context[window.places[i][0] : window.places[j][1]]
    nowhere = min(float(logits[0, 0] + logits[1, 0]) for logits, _ in windows)
    return Span(text, best, nowhere)


def predictions(answers: Answers, head: Head, classes: Sequence[str], *, may_be_empty: bool = False) -> list[Any]:
    """Answers as one reads them: names of classes, numbers, tags, texts.

    Args:
      answers: of the model.
      head: what is labelled.
      classes: names of the labels.
      may_be_empty: of spans, whether there may be none: where [CLS] is more probable.
    """
    if head == "classification":
        return [classes[int(logits.argmax())] for logits in answers.values]
    if head == "choice":
        return [int(logits.argmax()) for logits in answers.values]
    if head == "token":
        return [[classes[tag] for tag in tags] for tags in answers.values]
    if head == "span":
        return ["" if may_be_empty and span.no_answer_score > span.score else span.text for span in answers.values]
    return list(answers.values)


def score_answers(
    answers: Answers,
    examples: LabelledExamples,
    columns: Columns,
    classes: Sequence[str],
    *,
    may_be_empty: bool | None = None,
) -> dict[str, float]:
    """The scores of a task on labelled examples, the loss among them.

    Args:
      answers: of the model.
      examples: that it was asked about.
      columns: where the labels stand.
      classes: names of the labels.
      may_be_empty: of spans, whether the model learnt to give no answer; None: as the examples have it.
    """
    head = examples.texts.head
    if head == "span":
        scores = _score_spans(answers, right_answers(examples, columns.label), may_be_empty)
    elif head == "token":
        scores = entity_scores(_right_tags(examples, classes), predictions(answers, head, classes))
    elif head == "regression":
        right = np.array([float(record[columns.label]) for record in examples.records])
        scores = regression_scores(right, np.array(answers.values))
    else:
        size = examples.texts.texts_per_example
        right = np.array(examples.texts.labels[::size])
        chosen = np.array([int(logits.argmax()) for logits in answers.values])
        scores = classification_scores(right, chosen, columns.choices if head == "choice" else classes)
    return {"loss": answers.loss} | scores


def _right_tags(examples: LabelledExamples, classes: Sequence[str]) -> list[list[str]]:
    tags: list[list[str]] = [[] for _ in examples.records]
    for text, example in enumerate(examples.texts.examples.tolist()):
        tags[example] += [classes[tag] for tag in examples.texts.labels[text] if tag != IGNORED]
    return tags


def _score_spans(answers: Answers, right: list[list[str]], may_be_empty: bool | None) -> dict[str, float]:
    """Where questions have no answer, also the F1 with the best threshold, which is chosen on these examples."""
    some_missing = not all(right)
    given = predictions(answers, "span", (), may_be_empty=some_missing if may_be_empty is None else may_be_empty)
    scores = answer_scores(right, given)
    if not some_missing:
        return scores
    spans: Sequence[Span] = answers.values
    gaps = [span.no_answer_score - span.score for span in spans]
    threshold, best = best_no_answer_threshold(right, [span.text for span in spans], gaps)
    return scores | {"best_f1": best, "best_threshold": threshold}


def baseline(examples: LabelledExamples) -> float | None:
    """Accuracy of always giving the most frequent class, or of choosing blindly; None where there is no such thing."""
    head = examples.texts.head
    if head == "choice":
        return 1 / examples.texts.texts_per_example
    if head != "classification":
        return None
    labels = np.array(examples.texts.labels)
    return float(np.bincount(labels).max() / len(labels))


def blind_score(examples: LabelledExamples, columns: Columns, classes: Sequence[str]) -> tuple[str, float]:
    """What a model scores that has learnt nothing but to say the same of every example.

    Args:
      examples: labelled ones.
      columns: where what stands.
      classes: names of the labels.
    Returns:
      The name of the score and its value. Of classes the accuracy of the most frequent one, of choices that of chance;
      of tags the F1 of the most frequent one, which is 0 where it names no entity; of spans the F1 of no answer, which
      is 0 where every question has one; of numbers Pearson's correlation of a constant, 0.
    """
    head = examples.texts.head
    if head == "regression":
        return "pearson", 0.0
    if head == "span":
        right = right_answers(examples, columns.label)
        return "f1", answer_scores(right, [""] * len(right))["f1"]
    if head == "token":
        right = _right_tags(examples, classes)
        counts = Counter(tag for tags in right for tag in tags)
        most = max(counts, key=lambda tag: counts[tag], default="")
        return "f1", entity_scores(right, [[most] * len(tags) for tags in right])["f1"]
    accuracy = baseline(examples)
    assert accuracy is not None
    return "accuracy", accuracy
