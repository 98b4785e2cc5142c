"""Fine-tunes BERT or GPT on labelled texts:   python -m experiments.finetune --task=NAME --init=hf:DIR --data=...

Type the same command again and it goes on where it stopped. `--help` lists every flag.
"""

import dataclasses
import os
from collections.abc import Sequence

from bert_jax import finetuning
from bert_jax.answers import blind_score
from bert_jax.finetuning_config import BertFinetuning, LabelsConfig, TuningConfig
from bert_jax.known_tasks import KNOWN_TASKS, KnownTask
from core_jax import distributed
from core_jax.config import OptimizerConfig, require, to_json
from core_jax.run_lock import lock
from core_jax.sharding import parse_mesh
from core_jax.train import NonFiniteLossError
from core_jax.workdir import check_shared, claim_workdir, filling
from experiments import (
    finetune_answers,
    finetune_images,
    finetune_speech,
    finetune_translation,
    side_by_side,
    tuning,
    tuning_results,
)
from experiments.console import StopRequest, parse_flags, report, run_command, say, value_of
from experiments.tuning_grid import expand
from experiments.tuning_material import Material, open_materials

OTHERS = {  # tasks that are not the labels of texts
    **{other.TASK: other.main for other in (finetune_answers, finetune_images, finetune_translation)},
    **dict.fromkeys(finetune_speech.TASKS, finetune_speech.main),
}
Runs = Sequence[tuple[str, str, BertFinetuning]]  # name, work folder and configuration of each


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetune(BertFinetuning):
    """Fine-tunes a pretrained BERT or GPT on labelled texts."""

    seeds: int = 1  # runs that differ in their seed alone: mean and standard deviation are printed
    # values to try, each in a run: lr:1e-5,2e-5;batch:16,32 (also epochs, and any flag by its name)
    grid: str = ""

    def __post_init__(self):
        super().__post_init__()
        require(self.seeds > 0, f"--seeds={self.seeds}: expected 1 or more")

    def plain(self) -> BertFinetuning:
        """Without what is asked of several runs."""
        return BertFinetuning(**{f.name: getattr(self, f.name) for f in dataclasses.fields(BertFinetuning)})


def main(arguments: list[str]) -> int:
    """Trains, scores and reports; returns the exit code."""
    task = value_of("--task", arguments)
    if task in OTHERS:
        return OTHERS[task](arguments)
    flags = parse_flags(Finetune, arguments, "Fine-tunes BERT or GPT on labelled texts.", defaults(arguments))
    config = flags.plain()
    workdir = config.tuning.workdir or os.path.join("runs", config.labels.task.replace("/", "_"))
    runs = list(expand(config, flags.seeds, flags.grid, workdir))
    distributed.initialise(config.tuning.silence_seconds, report)
    distributed.require_same("configuration", to_json(flags))
    mesh = parse_mesh(config.tuning.mesh)
    distributed.first_decides(lambda: check(runs))
    check_shared(workdir)
    with StopRequest().listening() as stopping:
        materials = open_materials([one for _, _, one in runs], mesh, stopping)
        found = train_all(runs, materials)
        if stopping():
            say("stopped; all is saved: type the same command again to go on")
            return stopping.exit_code
    if len(runs) == 1:
        tuning_results.show(workdir, finetuning.sample_text(config.labels, materials[0].validation.records[0]))
    else:
        tuning_results.compare(workdir, config.labels.task, found, failures(config.labels, found, materials))
    return 0


def train_all(runs: Runs, materials: Sequence[Material]) -> list[tuple[str, dict[str, float] | None]]:
    """Trains the runs: seeds of one setting side by side where the mesh allows, else one after the other.

    Returns:
      Name and scores of each; None for one that diverged, where there are several. Fewer where it was asked to stop.
    Raises:
      NonFiniteLossError: the only run diverged.
    """
    names = {folder: name for name, folder, _ in runs}
    found: dict[str, dict[str, float] | None] = {}
    opened = [tuning.Run(config, folder, own) for (_, folder, config), own in zip(runs, materials, strict=True)]
    for group in side_by_side.groups(opened):
        together = side_by_side.train(group) if len(group) > 1 else None
        for place, run in enumerate(group):
            name = names[run.workdir]
            try:
                scores = together[place] if together else train_alone(run)
            except NonFiniteLossError as error:
                if len(runs) == 1:
                    raise
                say(f"{name}: failed: {error}")
                found[name] = None
                continue
            if scores is None:
                return list(found.items())
            found[name] = scores
    return [(name, found[name]) for name, _, _ in runs]


def failures(
    labels: LabelsConfig, found: Sequence[tuple[str, dict[str, float] | None]], materials: Sequence[Material]
) -> dict[str, str]:
    """Why runs have failed, by the name of each that has.

    Args:
      labels: of all runs, which differ in nothing that is asked here.
      found: name and scores of each run.
      materials: of each run.
    """
    why, columns, blind = {}, finetuning.columns_of(labels), {}
    for (name, scores), material in zip(found, materials, strict=True):
        key = id(material)  # which seeds share
        blind[key] = blind.get(key) or blind_score(material.validation, columns, material.classes)
        why[name] = tuning_results.why_failed(scores, blind[key])
    return {name: reason for name, reason in why.items() if reason}


def train_alone(run: tuning.Run) -> dict[str, float] | None:
    """Trains one run in its folder; as `tuning.train`."""
    with lock(run.workdir), filling(run.workdir, run.config):
        return tuning.train(run)


def defaults(arguments: Sequence[str]) -> Finetune:
    """The configuration that flags change: of a known task, its data and its published recipe."""
    known: KnownTask | None = KNOWN_TASKS.get(value_of("--task", arguments))
    if known is None:
        return Finetune()
    texts = (*known.text_columns, "")
    labels = LabelsConfig(
        task=known.name,
        data=known.data,
        text_column=texts[0],
        second_text_column=texts[1],
        label_column=known.label_column,
        data_split=known.train_split,
        validation_split=known.validation_splits[0],
        sequence_length=known.sequence_length,
    )
    return Finetune(
        labels=labels,
        optimizer=OptimizerConfig(learning_rate=known.learning_rate, warmup_steps=0),
        tuning=TuningConfig(epochs=known.epochs, global_batch_size=known.batch_size),
    )


def check(runs: Runs) -> None:
    """Refuses what cannot work before any text is read; makes nothing but the work folders.

    Raises:
      UserError: with what to type instead.
    """
    for labels in {config.labels for _, _, config in runs}:
        finetuning.check_labels(labels)
        finetuning.check_sets(labels)
    for _, folder, config in runs:
        claim_workdir(folder, config)


if __name__ == "__main__":
    run_command(main)
