"""Scores a model:   python -m experiments.evaluate --init=WORKDIR [--data=jsonl:FILES | --data=images:DIR]

A pretrained BERT or GPT on its held-out text, a fine-tuned BERT on any labelled examples, a ViT on any
labelled images, an encoder of sound on any labelled recordings.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from bert_jax import gpt_pretraining, pretraining
from bert_jax.foreign_label_models import is_label_model
from bert_jax.starting_points import is_fine_tuned, is_gpt
from core_jax import distributed
from core_jax.config import require
from core_jax.sharding import check_mesh, parse_mesh
from experiments import results, score_images, score_labels, score_recordings
from experiments.console import StopRequest, parse_flags, report, run_command, say
from experiments.families import family_of, is_of_images
from experiments.speech.hearing_runs import is_of_hearing

DESCRIPTION = "Scores a BERT or GPT on its held-out text, a BERT fine-tuned on labels, or a ViT on labelled images."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Prints the scores of a run again: of a fine-tuned BERT or a ViT, on any labelled examples."""

    init: str  # work folder of the run, or hf:DIR of a BERT that labels texts
    # of a fine-tuned BERT, as there: jsonl:GLOB and so on; of a ViT images:DIR or what else pretrain takes; by default
    # what the run was validated on; of an encoder of sound jsonl:FILES and so on
    data: str = ""
    data_split: str = "test"  # split of tfds:
    data_dir: str = ""  # where TFDS keeps its datasets; by default where TFDS itself looks
    # of a ViT: what files that cannot be read do, end it, or weigh nothing and be counted
    bad_images: Literal["as_trained", "fail", "skip"] = "as_trained"
    output: str = ""  # of a fine-tuned BERT or a ViT: file for the scores, as JSON
    mesh: str = "data:-1"  # devices by axis, as for pretraining
    silence_seconds: int = 60  # without a sign of life, after which a process of several counts as dead

    def __post_init__(self):
        require(bool(self.init), "--init=: expected the work folder of a run")


def main(arguments: list[str]) -> int:
    """Scores and prints; returns the exit code."""
    flags = parse_flags(Evaluation, arguments, DESCRIPTION)
    distributed.initialise(flags.silence_seconds, report)
    distributed.require_same("command line", repr(flags))
    mesh = parse_mesh(flags.mesh)
    score = scorer(flags.init)
    options = {"bad_images": flags.bad_images} if score is score_images.score else {}
    require(
        bool(options) or flags.bad_images == "as_trained",
        f"--bad_images={flags.bad_images}: {flags.init} is not of a ViT that knows classes; leave the flag out",
    )
    if score:
        with StopRequest().listening() as stopping:
            place = flags.data, flags.data_split, flags.data_dir
            scores = score(flags.init, *place, flags.output, mesh, stopping, **options)
        return stopping.exit_code if scores is None else 0
    require(not flags.data, f"--data={flags.data}: {flags.init} is pretrained, and scored on its own held-out text")
    kind: Any = gpt_pretraining if is_gpt(flags.init) else pretraining
    trained = kind.open_trained(flags.init, mesh, say)
    check_mesh(mesh, trained.params, trained.config.training.global_batch_size)
    family = family_of(trained.config)
    data = family.open_data(trained.config, flags.init, say)
    evaluate = family.make_evaluation(trained.config, trained.model, data, mesh)
    with StopRequest().listening() as stopping:
        evaluated = evaluate(trained.params, stopping)
    if evaluated is None:
        return stopping.exit_code
    results.show_scores(family.wording, f"{trained.config.preset} in {flags.init}", evaluated.scores)
    return 0


def scorer(init: str) -> Callable[..., dict[str, float] | None] | None:
    """What scores any examples with a work folder's model; None where it is pretrained on text."""
    if is_label_model(init):
        return score_labels.score
    if is_of_images(init):
        return score_images.score
    if is_of_hearing(init):
        return score_recordings.score
    return score_labels.score if is_fine_tuned(init) else None


if __name__ == "__main__":
    run_command(main)
