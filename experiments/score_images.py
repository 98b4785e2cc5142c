"""What `experiments.evaluate` does with a ViT: scores held-out or other images."""

import json
import os
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int64

from core_jax.class_scores import classification_scores, per_class_scores
from core_jax.pictures import confusion_matrix_picture
from core_jax.workdir import write_atomically
from experiments import results
from experiments.console import print_table, say
from vit_jax.family import DRAWN_CLASSES, VitFamily, as_examples
from vit_jax.pretraining import make_evaluation, open_trained
from vit_jax.scored_images import scored_images

FEW_CLASSES = 25  # up to so many are printed one by one


def score(
    init: str, data: str, split: str, data_dir: str, output: str, mesh: Mesh, stopping: Callable[[], bool]
) -> dict[str, float] | None:
    """Scores images, each once, and prints the scores.

    Args:
      init: work folder of a run.
      data: as for training; empty: the images that the run held out.
      split: of a dataset.
      data_dir: folder of TFDS datasets.
      output: file for the scores as JSON, or nothing.
      mesh: where it is computed.
      stopping: asked after each batch.
    Returns:
      The scores, or None where `stopping()` became true.
    Raises:
      UserError: the run or the images cannot be read, or do not fit each other.
    """
    trained = open_trained(init, mesh, say)
    config = trained.config
    examples = scored_images(config, trained.classes, data, split, data_dir)
    evaluate = make_evaluation(
        trained.model, examples, config.supervision.loss, config.training.global_batch_size, mesh
    )
    evaluated = evaluate(trained.params, stopping)
    if evaluated is None:
        return None
    assert evaluated.confusion is not None
    answers = as_examples(evaluated.confusion)
    scores = evaluated.scores | classification_scores(*answers, trained.classes)
    title = f"{config.preset} in {init}: {int(evaluated.confusion.sum()):,} images"
    results.show_scores(VitFamily.wording, title, scores)
    classes = per_class_scores(*answers, trained.classes)
    if len(classes) <= FEW_CLASSES:
        columns = ("class", "precision", "recall", "F1", "images")
        rows = [(name, *(f"{value:.4f}" for value in row[:3]), f"{row[3]:,}") for name, row in classes.items()]
        print_table("each class", columns, rows)
    if jax.process_index() == 0:
        _keep(init, data, output, scores, classes, answers)
    return scores


def _keep(
    init: str,
    data: str,
    output: str,
    scores: dict[str, float],
    classes: dict[str, tuple[float, float, float, int]],
    answers: tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]],
) -> None:
    """The picture of which classes are taken for which, and the scores as JSON where they are wanted."""
    if len(classes) <= DRAWN_CLASSES:
        path = f"{os.path.splitext(output)[0]}.png" if output else os.path.join(init, "evaluation.png")
        right, given = answers
        confusion_matrix_picture(path, right, given, list(classes))
        say(f"which classes are taken for which: {path}")
    if output:
        names = ("precision", "recall", "f1", "examples")
        by_class = {name: dict(zip(names, row, strict=True)) for name, row in classes.items()}
        content = {"data": data or "held out"} | scores | {"classes": by_class}
        write_atomically(output, json.dumps(content, indent=2) + "\n")
