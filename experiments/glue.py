"""Fine-tunes on all of GLUE and prints one table:   python -m experiments.glue --init=hf:DIR

Each task is a run of `experiments.finetune` with its published recipe, in a folder of its own below --workdir. Type the
same command again and it goes on where it stopped.
"""

import dataclasses
import json
import os
import statistics

from etils import epath

from bert_jax import finetuning
from bert_jax.known_tasks import KNOWN_TASKS
from core_jax.config import require
from core_jax.errors import UserError
from experiments import finetune, results
from experiments.console import format_value, parse_flags, print_table, run_command, say
from experiments.tuning_results import mean_text, published_text

TASKS = [name.removeprefix("glue/") for name in KNOWN_TASKS if name.startswith("glue/")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Glue:
    """Fine-tunes on every task of GLUE, and prints our scores beside the published ones."""

    init: str  # what to start from: hf:DIR, tf:PREFIX, or the work folder of a run
    tasks: str = ",".join(TASKS)  # which, with commas between
    seeds: int = 1  # runs of each task that differ in their seed alone: mean and standard deviation are printed
    data_dir: str = ""  # where TFDS keeps its datasets; by default where TFDS itself looks
    workdir: str = "runs/glue"  # a folder for each task
    mesh: str = "data:-1"  # devices by axis, as for pretraining
    dtype: str = "auto"  # type of computation, as for fine-tuning

    def __post_init__(self):
        unknown = [name for name in self.names() if name not in TASKS]
        require(not unknown, f"--tasks={self.tasks}: no {unknown[:1]}; there are {', '.join(TASKS)}")
        require(self.seeds > 0, f"--seeds={self.seeds}: expected 1 or more")

    def names(self) -> list[str]:
        """The tasks to run."""
        return [name.strip() for name in self.tasks.split(",")]

    def flags(self, name: str) -> list[str]:
        """The flags of `experiments.finetune` for one task."""
        own = {"task": f"glue/{name}", "workdir": os.path.join(self.workdir, name)}
        shared = {field: getattr(self, field) for field in ("init", "seeds", "data_dir", "mesh", "dtype")}
        return [f"--{flag}={value}" for flag, value in (own | shared).items() if value != ""]


def main(arguments: list[str]) -> int:
    """Runs what is not finished, and prints the table; returns the exit code."""
    flags = parse_flags(Glue, arguments, "Fine-tunes on every task of GLUE.")
    check_datasets(flags)
    for name in flags.names():
        say(f"glue/{name}")
        code = finetune.main(flags.flags(name))
        if code:
            return code
    show(flags)
    return 0


def check_datasets(flags: Glue) -> None:
    """Refuses before anything is trained where a dataset is not there.

    Raises:
      UserError: names all that are missing.
    """
    missing = []
    for name in flags.names():
        labels = finetune.defaults(flags.flags(name)).labels
        try:
            finetuning.check_sets(dataclasses.replace(labels, data_dir=flags.data_dir))
        except UserError as error:
            missing.append(f"  glue/{name}: {error}")
    if missing:
        raise UserError(
            "these tasks cannot be read:\n" + "\n".join(missing) + "\nprepare them, or leave them out with --tasks="
        )


def show(flags: Glue) -> None:
    """Prints every score that was published of a task beside ours, and the mean of the tasks' own metrics."""
    rows, means = [], []
    for name in flags.names():
        task = KNOWN_TASKS[f"glue/{name}"]
        for score in dict.fromkeys((task.metric, *task.published)):
            ours = mean_text(score, values_of(os.path.join(flags.workdir, name), score))
            rows.append((name, score.replace("_", " "), ours, published_text(score, task.published.get(score))))
        means.append(statistics.fmean(values_of(os.path.join(flags.workdir, name), task.metric)))
    rows.append(("mean", "", format_value("f1", statistics.fmean(means)), ""))
    print_table("GLUE, validation examples", ("task", "score", "ours", "published"), rows)
    published = (score for name in flags.names() for score in KNOWN_TASKS[f"glue/{name}"].published.values())
    for source in dict.fromkeys(score.source for score in published):
        say(f"published: {source}")


def values_of(workdir: str, score: str) -> list[float]:
    """A score of every run of a task that has not failed."""
    runs = epath.Path(workdir) / "runs.json"
    if runs.exists():
        return json.loads(runs.read_text())["all seeds"][score]["runs"]
    summary = results.load(workdir)
    assert summary is not None
    return [summary[score]]


if __name__ == "__main__":
    run_command(main)
