"""Scores of classes given against labels, on the host; all are 0 to 1, Matthews' correlation -1 to 1.

Axes: N examples.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from sklearn import metrics

ZERO: Any = 0  # where nothing was given or nothing wanted; scikit-learn takes numbers, its default is a word
FEW_CLASSES = 5  # up to so many have scores of their own among those of the whole


def classification_scores(
    labels: Int[np.ndarray, " N"], predictions: Int[np.ndarray, " N"], names: Sequence[str]
) -> dict[str, float]:
    """Accuracy, and what is fairer where some classes are rare.

    Args:
      labels: the right classes.
      predictions: the classes given.
      names: of all classes, in their order.
    Returns:
      accuracy; precision, recall and f1, each the mean over the classes that occur in labels or predictions, as
      scikit-learn has it, where a class that was never given or never right counts 0; micro_f1; matthews, 0 where all
      labels or all predictions are of one class; of two classes positive_f1, the F1 of class 1, which is GLUE's F1.
    """
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        labels, predictions, average="macro", zero_division=ZERO
    )
    # scikit-learn warns where all are of one class.
    varied = np.ptp(labels) > 0 and np.ptp(predictions) > 0
    scores = {
        "accuracy": metrics.accuracy_score(labels, predictions),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "micro_f1": metrics.f1_score(labels, predictions, average="micro", zero_division=ZERO),
        "matthews": metrics.matthews_corrcoef(labels, predictions) if varied else 0.0,
    }
    if len(names) <= FEW_CLASSES:
        scores |= {f"f1/{name}": row[2] for name, row in per_class_scores(labels, predictions, names).items()}
    return {name: float(value) for name, value in scores.items()}  # which JSON can hold


def per_class_scores(
    labels: Int[np.ndarray, " N"], predictions: Int[np.ndarray, " N"], names: Sequence[str]
) -> dict[str, tuple[float, float, float, int]]:
    """How each class does.

    Args:
      labels: the right classes.
      predictions: the classes given.
      names: of all classes, in their order.
    Returns:
      {name: (precision, recall, F1, examples whose label it is)}; 0 where a class was never given or never right.
    """
    columns = metrics.precision_recall_fscore_support(
        labels, predictions, labels=np.arange(len(names)), average=None, zero_division=ZERO
    )
    rows = zip(*(np.asarray(column).tolist() for column in columns), strict=True)
    return {name: (p, r, f1, int(count)) for name, (p, r, f1, count) in zip(names, rows, strict=True)}
