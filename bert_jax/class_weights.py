"""What labelled texts and tags count in the loss where each class is to count the same."""

import dataclasses

import numpy as np
from jaxtyping import Float32, Int

from bert_jax.labelled_rows import IGNORED, LabelledTexts


def balanced(texts: LabelledTexts, classes: int) -> LabelledTexts:
    """The same texts, weighed so that each class counts the same: of a token task, each class of tags.

    Args:
      texts: of a classification or token task.
      classes: how many there are.
    """
    labels = np.concatenate([np.atleast_1d(label) for label in texts.labels])
    weights = balanced_weights(labels[labels != IGNORED], classes)
    if texts.head == "token":
        return dataclasses.replace(texts, tag_weights=weights)
    return dataclasses.replace(texts, weights=weights[labels])


def balanced_weights(labels: Int[np.ndarray, " N"], classes: int) -> Float32[np.ndarray, " C"]:
    """What makes each class count the same in all, as scikit-learn's "balanced": N / (C count)."""
    counts = np.bincount(labels, minlength=classes)
    return (len(labels) / (classes * np.maximum(counts, 1))).astype(np.float32)
