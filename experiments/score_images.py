"""What `experiments.evaluate` does with a ViT: scores held-out or other images."""

import dataclasses
import json
from collections.abc import Callable
from typing import Literal

import jax
from jax.sharding import Mesh

from core_jax.class_scores import classification_scores
from core_jax.config import require
from core_jax.distributed import gather
from experiments import results
from experiments.class_tables import keep_scores, show_classes
from experiments.console import say
from vit_jax.family import VitFamily, as_examples
from vit_jax.foreign_classifiers import open_classifier
from vit_jax.foreign_weights import split_place
from vit_jax.pretraining import make_evaluation
from vit_jax.scored_images import names_in_order, scored_images
from vit_jax.skipped_images import describe_skipped


def score(
    init: str,
    data: str,
    split: str,
    data_dir: str,
    output: str,
    mesh: Mesh,
    stopping: Callable[[], bool],
    bad_images: Literal["as_trained", "fail", "skip"] = "as_trained",
) -> dict[str, float] | None:
    """Scores images, each once, and prints the scores.

    Args:
      init: work folder of a run, or a ViT of another program.
      data: as for training; empty: the images that the run held out.
      split: of a dataset.
      data_dir: folder of TFDS datasets.
      output: file for the scores as JSON, or nothing.
      mesh: where it is computed.
      stopping: asked after each batch.
      bad_images: what files that cannot be read do, as for training; by default what they did there.
    Returns:
      The scores, or None where `stopping()` became true.
    Raises:
      UserError: the run or the images cannot be read, or do not fit each other.
    """
    trained = open_classifier(init, mesh, say)
    config = trained.config
    if bad_images != "as_trained":
        config = dataclasses.replace(config, images=dataclasses.replace(config.images, bad_images=bad_images))
    if split_place(init)[0]:
        require(bool(data), f"--data=: expected images to score, such as images:DIR, for {init}")
        classes = names_in_order(config, trained.classes, data, split, data_dir)
        if classes != trained.classes:
            say(f"{init} names none of these classes: they are taken in their order, {classes[0]}, {classes[1]}, ...")
            trained = dataclasses.replace(trained, classes=classes)
    examples = scored_images(config, trained.classes, data, split, data_dir)
    evaluate = make_evaluation(
        trained.model,
        examples,
        config.supervision.loss,
        config.images.normalization,
        config.training.global_batch_size,
        mesh,
    )
    evaluated = evaluate(trained.params, stopping)
    if evaluated is None:
        return None
    assert evaluated.confusion is not None
    answers = as_examples(evaluated.confusion)
    scores = evaluated.scores | classification_scores(*answers, trained.classes)
    skipped = sorted({name for text in gather(json.dumps(examples.skipped.names())) for name in json.loads(text)})
    title = f"{config.preset} in {init}: {int(evaluated.confusion.sum()):,} images"
    results.show_scores(VitFamily.wording, title, scores)
    show_classes(*answers, trained.classes)
    if skipped:
        say(describe_skipped(len(skipped), skipped))
    scores["skipped_images"] = len(skipped)
    if jax.process_index() == 0:
        keep_scores(init, data, output, scores, answers, trained.classes)
    return scores
