"""Scores of answers against labels, on the host: numbers, entities, spans of text. All but errors are 0 to 1.

Axes: N examples.
"""

import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Real
from scipy import stats
from sklearn import metrics

ZERO: Any = 0  # where nothing was given or nothing wanted; scikit-learn takes numbers, its default is a word
OUTSIDE = "O"
# First, inner and last word of an entity, and its only one; with its type, or alone where there is but one.
ENTITY_TAG = re.compile(r"[BIES](-.*)?")
ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def regression_scores(labels: Real[np.ndarray, " N"], predictions: Real[np.ndarray, " N"]) -> dict[str, float]:
    """How numbers go together, and how far they are from each other.

    Args:
      labels: the right numbers.
      predictions: the numbers given.
    Returns:
      pearson and spearman, -1 to 1, 0 where all labels or all predictions are the same; mean_squared_error, in the
      labels' unit squared.
    """
    labels, predictions = labels.astype(np.float64), predictions.astype(np.float64)
    scores = {"pearson": 0.0, "spearman": 0.0, "mean_squared_error": np.mean((labels - predictions) ** 2)}
    if np.ptp(labels) != 0 and np.ptp(predictions) != 0:
        with warnings.catch_warnings():
            # Numbers that differ in their last bits only are a poor model, not a mistake.
            warnings.simplefilter("ignore", stats.NearConstantInputWarning)
            scores["pearson"] = stats.pearsonr(labels, predictions)[0]
        scores["spearman"] = stats.spearmanr(labels, predictions)[0]
    return _floats(scores)


def entity_spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """The entities that a sentence's tags name.

    An inner tag that follows no entity of its type begins one, as in CoNLL-2003's own script: so IOB1, IOB2 and IOBES
    are all read, and so is what a model gets wrong.

    Args:
      tags: B-TYPE, I-TYPE, E-TYPE, S-TYPE of each word, or B, I, E, S; anything else is outside.
    Returns:
      (type, first word, word after the last), in order; the type is empty where tags name none.
    Source: conlleval of Tjong Kim Sang and De Meulder 2003, https://aclanthology.org/W03-0419
    """
    spans, start, prefix_before, kind_before = [], 0, OUTSIDE, ""
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, kind = (tag[0], tag[2:]) if ENTITY_TAG.fullmatch(tag) else (OUTSIDE, "")
        begins = prefix != OUTSIDE and (prefix in "BS" or prefix_before in "ESO" or kind != kind_before)
        if prefix_before != OUTSIDE and (begins or prefix == OUTSIDE):
            spans.append((kind_before, start, place))
        start = place if begins else start
        prefix_before, kind_before = prefix, kind
    return spans


def entity_scores(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """Scores of tagged sentences: of whole entities where tags name such, else of words.

    Args:
      gold: the right tags of each sentence.
      predicted: the tags given, as many.
    Returns:
      accuracy, of words. Where tags name entities (B-, I-, E-, S-, or these letters alone): precision, recall and f1 of
      entities, which are right only as a whole, and macro_f1, the mean of their types' f1; 0 where there is no entity.
      Of other tags, as parts of speech: macro_f1, the mean of their f1, and f1, which over all words is the accuracy.
    Raises:
      ValueError: not as many tags as there are words.
    Source: equal to seqeval (https://github.com/chakki-works/seqeval) in its default mode
    """
    pairs = [pair for tags in zip(gold, predicted, strict=True) for pair in zip(*tags, strict=True)]
    accuracy = sum(right == given for right, given in pairs) / max(1, len(pairs))
    names = {tag for pair in pairs for tag in pair}
    if not _name_entities(names - {OUTSIDE}):
        rights, givens = zip(*pairs, strict=True)
        macro = metrics.f1_score(rights, givens, average="macro", zero_division=ZERO)
        return _floats({"accuracy": accuracy, "macro_f1": macro, "f1": accuracy})
    found = [_places(gold), _places(predicted)]
    both = _by_type(found[0] & found[1])
    in_gold, in_predicted = map(_by_type, found)
    types = sorted(in_gold.keys() | in_predicted.keys())
    f1s = [_f1(both[kind], in_predicted[kind], in_gold[kind]) for kind in types]
    right, given, wanted = both.total(), in_predicted.total(), in_gold.total()
    return {
        "accuracy": accuracy,
        "precision": right / max(1, given),
        "recall": right / max(1, wanted),
        "f1": _f1(right, given, wanted),
        "macro_f1": sum(f1s) / max(1, len(f1s)),
    }


def _name_entities(names: set[str]) -> bool:
    """Where any begins with B- or I-, or all are as of entities: parts of speech may be a letter too."""
    return any(name.startswith(("B-", "I-")) for name in names) or all(map(ENTITY_TAG.fullmatch, names))


def _places(sentences: Sequence[Sequence[str]]) -> set[tuple[str, int, int, int]]:
    return {(*span, sentence) for sentence, tags in enumerate(sentences) for span in entity_spans(tags)}


def _by_type(places: set[tuple[str, int, int, int]]) -> Counter[str]:
    return Counter(place[0] for place in places)


def _f1(right: int, given: int, wanted: int) -> float:
    return 2 * right / max(1, given + wanted)


def normalised_answer(text: str) -> str:
    """An answer without what does not count: case, punctuation, articles, blanks.

    Source: Rajpurkar et al. 2016, section 6.1
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(reference: str, prediction: str) -> float:
    """1 where both answers are the same but for what does not count, else 0."""
    return float(normalised_answer(reference) == normalised_answer(prediction))


def overlap_f1(reference: str, prediction: str) -> float:
    """F1 of the words that two answers share; of two empty answers 1, of an empty one and another 0.

    Source: Rajpurkar et al. 2016, section 6.1; 2018 for empty answers
    """
    wanted, given = normalised_answer(reference).split(), normalised_answer(prediction).split()
    if not wanted or not given:
        return float(wanted == given)
    return _f1((Counter(wanted) & Counter(given)).total(), len(given), len(wanted))


def answer_scores(references: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """exact_match and f1 of answers to questions, as SQuAD has them.

    Args:
      references: the right answers to each question, of which the most similar counts; none, or only empty ones: right
        is to give none.
      predictions: the answers given; "" where none is.
    Returns:
      exact_match and f1, means over the questions.
    Source: evaluate-v2.0.py of SQuAD, https://rajpurkar.github.io/SQuAD-explorer. That of 1.1 differs only where an
      answer is nothing but articles and punctuation.
    """
    scores = {"exact_match": exact_match, "f1": overlap_f1}
    return {
        name: sum(_best(score, references, predictions)) / max(1, len(predictions)) for name, score in scores.items()
    }


def _best(
    score: Callable[[str, str], float], references: Sequence[Sequence[str]], predictions: Sequence[str]
) -> list[float]:
    """Each question's score, of its most similar right answer."""
    return [
        max(score(text, prediction) for text in _real_answers(texts) or [""])
        for texts, prediction in zip(references, predictions, strict=True)
    ]


def _real_answers(texts: Sequence[str]) -> list[str]:
    return [text for text in texts if normalised_answer(text)]


def best_no_answer_threshold(
    references: Sequence[Sequence[str]], predictions: Sequence[str], no_answer_scores: Sequence[float]
) -> tuple[float, float]:
    """From which score on that there is no answer none should be given.

    Args:
      references: the right answers to each question; none, or only empty ones, where it has no answer.
      predictions: the best answer to each, though there may be none.
      no_answer_scores: of each, higher where an answer is less likely: a probability, or a difference of logits.
    Returns:
      The threshold, above which no answer is given, and the mean f1 so reached. Of equally good thresholds the lowest.
    Source: find_best_thresh in evaluate-v2.0.py of SQuAD, which takes one question after the other even where scores
      are equal, and 0 as the lowest threshold; here what is returned is reached with any scores.
    """
    unanswerable = np.array([not _real_answers(texts) for texts in references], np.float64)
    gains = np.array(_best(overlap_f1, references, predictions)) - unanswerable
    scores = np.asarray(no_answer_scores, np.float64)
    thresholds, places = np.unique(scores, return_inverse=True)
    totals = unanswerable.sum() + np.bincount(places, gains).cumsum()
    # Below the lowest, nothing is answered.
    thresholds = np.concatenate([[np.nextafter(thresholds[0], -np.inf)], thresholds])
    totals = np.concatenate([[unanswerable.sum()], totals])
    best = int(totals.argmax())
    return float(thresholds[best]), float(totals[best] / len(scores))


def _floats(scores: dict[str, float]) -> dict[str, float]:
    """Plain floats, which JSON can hold."""
    return {name: float(value) for name, value in scores.items()}
