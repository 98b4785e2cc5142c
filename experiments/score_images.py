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
from vit_jax.pretraining import Trained, make_evaluation
from vit_jax.scored_images import names_in_order, scored_images
from vit_jax.skipped_images import SkippedImages, describe_skipped


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
    place = data, split, data_dir
    classes = names_for(init, dataclasses.replace(trained, config=config), *place)
    examples = scored_images(config, classes, *place)
    recipe = config.supervision.loss, config.images.normalization, config.training.global_batch_size
    evaluate = make_evaluation(trained.model, examples, *recipe, mesh)
    evaluated = evaluate(trained.params, stopping)
    if evaluated is None:
        return None
    assert evaluated.confusion is not None
    answers = as_examples(evaluated.confusion)
    scores = evaluated.scores | classification_scores(*answers, classes)
    title = f"{config.preset} in {init}: {int(evaluated.confusion.sum()):,} images"
    results.show_scores(VitFamily.wording, title, scores)
    show_classes(*answers, classes)
    scores["skipped_images"] = tell_skipped(examples.skipped)
    if jax.process_index() == 0:
        keep_scores(init, data, output, scores, answers, classes)
    return scores


def names_for(init: str, trained: Trained, data: str, split: str, data_dir: str) -> tuple[str, ...]:
    """The classes of what is scored: of another program's model perhaps those of the images, in their order."""
    if not split_place(init)[0]:
        return trained.classes
    require(bool(data), f"--data=: expected images to score, such as images:DIR, for {init}")
    classes = names_in_order(trained.config, trained.classes, data, split, data_dir)
    if classes != trained.classes:
        say(f"{init} names none of these classes: they are taken in their order, {classes[0]}, {classes[1]}, ...")
    return classes


def tell_skipped(skipped: SkippedImages) -> int:
    """Prints which images could not be read, on whichever process; gives their number. All processes must call it."""
    names = sorted({name for text in gather(json.dumps(skipped.names())) for name in json.loads(text)})
    if names:
        say(describe_skipped(len(names), names))
    return len(names)
