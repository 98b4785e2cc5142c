"""How each class did, of whatever it is: printed, drawn, and kept as JSON.

Axes: N examples.
"""

import json
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from core_jax.class_scores import per_class_scores
from core_jax.pictures import confusion_matrix_picture
from core_jax.workdir import write_atomically
from experiments.console import print_table, say
from vit_jax.family import DRAWN_CLASSES

FEW_CLASSES = 25  # up to so many are printed one by one


def show_classes(
    labels: Int64[np.ndarray, " N"], predictions: Int64[np.ndarray, " N"], names: Sequence[str], unit: str = "images"
) -> None:
    """Prints precision, recall and F1 of each class, where they are few.

    Args:
      labels: the right classes.
      predictions: the classes given.
      names: of all classes, in their order.
      unit: what the examples are.
    """
    if len(names) <= FEW_CLASSES:
        columns = ("class", "precision", "recall", "F1", unit)
        classes = per_class_scores(labels, predictions, names)
        rows = [(name, *(f"{value:.4f}" for value in row[:3]), f"{row[3]:,}") for name, row in classes.items()]
        print_table("each class", columns, rows)


def keep_scores(
    init: str,
    data: str,
    output: str,
    scores: dict[str, float],
    answers: tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]],
    names: Sequence[str],
) -> None:
    """The picture of which classes are taken for which, and the scores as JSON where they are wanted.

    Args:
      init: work folder of the run, where the picture goes if there is no output; of another place there is none then.
      data: that was scored; empty: what was held out.
      output: file for the scores, or nothing.
      scores: of all.
      answers: the right classes, and those given.
      names: of all classes, in their order.
    """
    if len(names) <= DRAWN_CLASSES and (output or os.path.isdir(init)):
        path = f"{os.path.splitext(output)[0]}.png" if output else os.path.join(init, "evaluation.png")
        confusion_matrix_picture(path, *answers, names)
        say(f"which classes are taken for which: {path}")
    if output:
        columns = ("precision", "recall", "f1", "examples")
        classes = per_class_scores(*answers, names)
        by_class = {name: dict(zip(columns, row, strict=True)) for name, row in classes.items()}
        content = {"data": data or "held out"} | scores | {"classes": by_class}
        write_atomically(output, json.dumps(content, indent=2) + "\n")
