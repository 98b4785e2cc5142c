"""Fine-tunes BERT on labelled texts:   python -m experiments.finetune --task=NAME --init=hf:DIR --data=jsonl:FILES

Type the same command again and it goes on where it stopped. `--help` lists every flag.
"""

import dataclasses
import itertools
import json
import math
import os
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from etils import epath

from bert_jax import finetuning
from bert_jax.finetuning_config import BertFinetuning, LabelsConfig, TuningConfig
from bert_jax.known_tasks import KNOWN_TASKS, KnownTask
from bert_jax.starting_points import open_starting_point
from core_jax import distributed
from core_jax.config import OptimizerConfig, require, to_json
from core_jax.errors import UserError
from core_jax.labelled_data import check_records
from core_jax.sharding import parse_mesh
from core_jax.train import NonFiniteLossError
from core_jax.workdir import check_shared, claim_workdir, filling, lock, write_atomically
from experiments import tuning
from experiments.console import StopRequest, format_value, parse_flags, print_table, report, run_command, say

GRID_NAMES = {"lr": "learning_rate", "batch": "global_batch_size", "epochs": "epochs", "seed": "seed"}
FAILED_MARGIN = 0.01  # above the most frequent class, below which a run has learnt nothing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetune(BertFinetuning):
    """Fine-tunes a pretrained BERT on labelled texts."""

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
    flags = parse_flags(Finetune, arguments, "Fine-tunes BERT on labelled texts.", defaults(arguments))
    config = flags.plain()
    workdir = config.tuning.workdir or os.path.join("runs", config.labels.task.replace("/", "_"))
    runs = list(expand(config, flags.seeds, flags.grid, workdir))
    distributed.initialise(config.tuning.silence_seconds, report)
    distributed.require_same("configuration", to_json(flags))
    mesh = parse_mesh(config.tuning.mesh)
    distributed.first_decides(lambda: check(runs))
    check_shared(workdir)
    with StopRequest().listening() as stopping:
        found: list[tuple[str, dict[str, float] | None]] = []
        material = open_material(config, mesh, stopping)
        for name, folder, one in runs:
            run = tuning.Run(one, folder, material)
            with lock(folder):
                try:
                    with filling(folder, one):
                        scores = tuning.train(run)
                except NonFiniteLossError as error:
                    if len(runs) == 1:
                        raise
                    say(f"{name}: failed: {error}")
                    found.append((name, None))
                    continue
            if scores is None or stopping():
                say("stopped; all is saved: type the same command again to go on")
                return stopping.exit_code
            found.append((name, scores))
            if len(runs) == 1:
                tuning.show(run)
        if len(runs) > 1:
            compare(workdir, found, tuning.Run(config, workdir, material))
    return 0


def defaults(arguments: Sequence[str]) -> Finetune:
    """The configuration that flags change: of a known task, its data and its published recipe."""
    names = [flag.partition("=")[2] for flag in arguments if flag.partition("=")[0] == "--task"]
    names += [after for flag, after in itertools.pairwise(arguments) if flag == "--task"]
    known: KnownTask | None = KNOWN_TASKS.get(names[-1]) if names else None
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


def expand(
    config: BertFinetuning, seeds: int, grid: str, workdir: str
) -> Iterator[tuple[str, str, BertFinetuning]]:
    """The runs that --seeds and --grid ask for: name, work folder and configuration of each.

    Raises:
      UserError: the grid cannot be read, or names no flag.
    """
    axes = parse_grid(grid)
    if seeds > 1:
        first = config.tuning.seed
        axes.append(("seed", [str(first + number) for number in range(seeds)]))
    if not axes:
        yield config.labels.task, workdir, config
        return
    for values in itertools.product(*(values for _, values in axes)):
        pairs = list(zip((name for name, _ in axes), values, strict=True))
        changed = config
        for name, value in pairs:
            changed = _with_flag(changed, name, value)
        name = " ".join(f"{name}={value}" for name, value in pairs)
        yield name, os.path.join(workdir, name.replace(" ", "_")), changed


def parse_grid(text: str) -> list[tuple[str, list[str]]]:
    """`lr:1e-5,2e-5;batch:16` -> [("learning_rate", ["1e-5", "2e-5"]), ("global_batch_size", ["16"])]."""
    axes = []
    for part in filter(None, text.split(";")):
        name, colon, values = part.partition(":")
        require(
            bool(colon and values),
            f"--grid={text}: {part!r} is not NAME:VALUE,VALUE; expected such as lr:1e-5,2e-5;batch:16,32",
        )
        axes.append((GRID_NAMES.get(name.strip(), name.strip()), [value.strip() for value in values.split(",")]))
    return axes


def _with_flag(config: Any, name: str, text: str) -> Any:
    """A configuration (of configurations) with one field set from text."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == name and not dataclasses.is_dataclass(value):
            try:
                return dataclasses.replace(config, **{name: type(value)(text)})
            except ValueError:
                kind = type(value).__name__
                raise UserError(f"--grid: {name} has the value {text!r}; expected a {kind}") from None
        if dataclasses.is_dataclass(value) and any(f.name == name for f in dataclasses.fields(value)):
            return dataclasses.replace(config, **{field.name: _with_flag(value, name, text)})
    raise UserError(f"--grid: there is no flag --{name}; short names are {', '.join(GRID_NAMES)}")


def check(runs: Sequence[tuple[str, str, BertFinetuning]]) -> None:
    """Refuses what cannot work before any text is read; makes nothing but the work folders.

    Raises:
      UserError: with what to type instead.
    """
    labels = runs[0][2].labels
    finetuning.check_labels(labels)
    for data, split in ((labels.data, labels.data_split), (labels.validation_data, labels.validation_split)):
        if data:
            columns = finetuning.columns_of(labels)
            wanted = [name for name in (columns.text, columns.second, columns.label, *columns.choices) if name]
            check_records(data, wanted, split=split, data_dir=labels.data_dir or None)
    for _, folder, config in runs:
        claim_workdir(folder, config)


def open_material(config: BertFinetuning, mesh: Any, stopping: StopRequest) -> tuning.Material:
    """Reads starting point and examples.

    Raises:
      UserError: one of them cannot be read, or they do not fit each other.
    """
    labels = config.labels
    start = open_starting_point(config.init, mesh, say)
    longest = start.config.maximum_positions
    require(
        labels.sequence_length <= longest,
        f"--sequence_length={labels.sequence_length} is longer than the position table of {config.init}: "
        f"use --sequence_length={longest} or less",
    )
    train, validation = finetuning.split_records(labels)
    classes = finetuning.classes_of(labels, train)
    encoded = finetuning.encode(labels, train, start.tokenizer, classes, weigh=True)
    require(
        len(encoded.texts) >= config.tuning.global_batch_size,
        f"--data={labels.data} gives {len(encoded.texts)} examples, fewer than "
        f"--global_batch_size={config.tuning.global_batch_size}: give more, or a smaller batch",
    )
    held = finetuning.encode(labels, validation, start.tokenizer, classes)
    return tuning.Material(start, classes, encoded, held, mesh, stopping)


def compare(workdir: str, found: Sequence[tuple[str, dict[str, float] | None]], run: tuning.Run) -> None:
    """Prints the runs beside each other, and over all seeds of one setting mean and standard deviation.

    A run counts as failed where it diverged, or answers no better than the most frequent class: the known instability
    of fine-tuning BERT (Mosbach et al. 2020, https://arxiv.org/abs/2006.04884).
    """
    blind = tuning.baseline(run.material.validation, run.model.head)

    def failed(scores):
        return scores is None or (blind is not None and scores["accuracy"] < blind + FAILED_MARGIN)

    names = list(dict.fromkeys(name for _, scores in found if scores for name in scores))
    groups: dict[str, list[tuple[str, dict[str, float] | None]]] = {}
    for name, scores in found:
        setting = " ".join(part for part in name.split(" ") if not part.startswith("seed="))
        groups.setdefault(setting, []).append((name, scores))
    rows, results = [], {}
    for setting, members in groups.items():
        good = [scores for _, scores in members if scores is not None and not failed(scores)]
        lost = [name for name, scores in members if failed(scores)]
        values = {name: [scores[name] for scores in good] for name in names} if good else {}
        results[setting or "all"] = {
            "failed": lost,
            **{name: {"mean": statistics.fmean(v), "std": _deviation(v), "runs": v} for name, v in values.items()},
        }
        cells = [f"{_mean_text(name, values[name])}" if values else "" for name in names]
        rows.append((setting or "all seeds", *cells, f"{len(lost)} of {len(members)}"))
    print_table(f"{run.config.labels.task}, {len(found)} runs", ("", *names, "failed"), rows)
    for result in results.values():
        for name in result["failed"]:
            say(f"failed: {name} is no better than the most frequent class; try a lower --learning_rate or more warm-up")
    if jax.process_index() == 0:
        write_atomically(epath.Path(workdir) / "runs.json", json.dumps(results, indent=2) + "\n")


def _deviation(values):
    return statistics.stdev(values) if len(values) > 1 else math.nan


def _mean_text(name, values):
    mean = format_value(name, statistics.fmean(values))
    return f"{mean} ± {format_value(name, _deviation(values))}" if len(values) > 1 else mean


if __name__ == "__main__":
    run_command(main)
