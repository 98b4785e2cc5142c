"""What `experiments.evaluate` does with an encoder of sound: scores held-out or other recordings."""

import json
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from core_jax.config import require
from core_jax.workdir import write_atomically
from experiments import results
from experiments.class_tables import keep_scores, show_classes
from experiments.console import say
from experiments.families import family_of
from experiments.speech.hearing_runs import open_hearing, recordings_to_score
from vit_jax.family import as_examples


def score(
    init: str, data: str, split: str, data_dir: str, output: str, mesh: Mesh, stopping: Callable[[], bool]
) -> dict[str, float] | None:
    """Scores recordings, each once, and prints the scores.

    Args:
      init: work folder of a run.
      data: as for training; empty: the recordings that the run held out.
      split, data_dir: of a dataset; recordings come from files alone.
      output: file for the scores as JSON, or nothing.
      mesh: where it is computed.
      stopping: asked after each batch.
    Returns:
      The scores, or None where `stopping()` became true.
    Raises:
      UserError: the run or the recordings cannot be read, or do not fit each other.
    """
    del split, data_dir
    require(not data.startswith("tfds:"), f"--data={data}: expected jsonl:FILES, csv:FILES or tsv:FILES of recordings")
    trained = open_hearing(init, mesh, say)
    recordings = recordings_to_score(trained, data)
    family = family_of(trained.config)
    evaluate = family.make_evaluation(trained.config, trained.model, recordings, mesh)
    evaluated = evaluate(trained.params, stopping)
    if evaluated is None:
        return None
    title = f"{trained.config.preset} in {init}: {len(recordings.scored):,} recordings"
    results.show_scores(family.wording, title, evaluated.scores)
    answers = None if evaluated.confusion is None else as_examples(evaluated.confusion)
    if answers:
        show_classes(*answers, trained.outputs, "recordings")
    if jax.process_index() == 0:
        if answers:
            keep_scores(init, data, output, evaluated.scores, answers, trained.outputs)
        elif output:
            write_atomically(output, json.dumps({"data": data or "held out"} | evaluated.scores, indent=2) + "\n")
    return evaluated.scores
