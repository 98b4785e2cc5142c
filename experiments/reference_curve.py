"""Measures what to expect of the default run, by step:   python -m experiments.reference_curve

Trains it with several seeds, one after another, each in a folder of its own below --workdir, and writes the bands of
their losses and accuracies to the file that `experiments.pretrain --check_curve=True` reads. The same command goes on
where it stopped; with more --seeds it adds to those that are there.
"""

import dataclasses
import os
import shlex
import statistics
import subprocess
import sys

from bert_jax.config import BertPretraining
from bert_jax.curve_bands import make_points, outside_share
from bert_jax.pretraining import identity
from bert_jax.reference_curve import FILE, ReferenceCurve, format_curve, important_differences
from bert_jax.tokenizer_files import load_tokenizer
from core_jax.config import require
from core_jax.workdir import read_config, read_records, write_atomically
from experiments import results
from experiments.console import format_value, parse_flags, print_table, run_command, say

SHOWN_POINTS = 10
SHOWN = ("mlm_loss", "mlm_accuracy", "nsp_accuracy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """Trains the default run with several seeds and writes its reference curve."""

    seeds: int = 5  # runs, with the seeds 0, 1, ...
    workdir: str = "runs/reference_curve"  # a folder for each run
    evaluate_every: int = 250  # steps between scores on held-out documents
    output: str = str(FILE)  # where the curve goes

    def __post_init__(self):
        require(self.seeds >= 3, f"--seeds={self.seeds}: two runs or fewer tell nothing of their spread; use 5")


def main(arguments: list[str]) -> int:
    """Runs what is not there yet, writes and prints the curve; returns the exit code."""
    flags = parse_flags(Measurement, arguments, "Trains the default run with several seeds, for its reference curve.")
    folders = [os.path.join(flags.workdir, f"seed-{seed}") for seed in range(flags.seeds)]
    for seed, folder in enumerate(folders):
        say(f"seed {seed}")
        code = subprocess.run(command(seed, folder, flags.evaluate_every)).returncode
        if code:
            say(f"error: the run with seed {seed} ended with code {code}; the same command goes on with it")
            return code if code > 0 else 128 - code
    curve = measure(folders, shlex.join(["python", "-m", "experiments.reference_curve", *arguments]))
    write_atomically(flags.output, format_curve(curve))
    show(curve)
    share = outside_share([read_records(folder) for folder in folders])
    say(f"of each run's values, held against the bands of the others, {share:.2%} are outside")
    say(f"written: {flags.output}")
    return 0


def command(seed: int, folder: str, evaluate_every: int) -> list[str]:
    """The default run with another seed, scored more often."""
    flags = {"seed": seed, "workdir": folder, "evaluate_every": evaluate_every}
    return [sys.executable, "-m", "experiments.pretrain", *(f"--{name}={value}" for name, value in flags.items())]


def measure(folders: list[str], made_by: str) -> ReferenceCurve:
    """The curve of runs that are finished.

    Args:
      folders: their work folders.
      made_by: command that trained them.
    Raises:
      UserError: the runs differ in more than their seed, or there is only one.
    """
    configs = [read_config(folder, BertPretraining) for folder in folders]
    for folder, config in zip(folders, configs, strict=True):
        changed = important_differences(config, configs[0])
        require(not changed, f"{folder} differs from {folders[0]} in {', '.join(f'--{name}' for name in changed)}")
    summaries = [results.load(folder) or {} for folder in folders]
    unfinished = [folder for folder, summary in zip(folders, summaries, strict=True) if not summary]
    require(not unfinished, f"the runs in {', '.join(unfinished)} are not finished: type the same command again")
    runs = [read_records(folder) for folder in folders]
    return ReferenceCurve(
        config=configs[0],
        seeds=tuple(config.training.seed for config in configs),
        vocabulary=identity(load_tokenizer(os.path.join(folders[0], "tokenizer")))["vocabulary"],
        unigram_loss=round(statistics.fmean(summary["unigram_loss"] for summary in summaries), 5),
        device=summaries[0]["device"],
        versions=summaries[0]["versions"],
        command=made_by,
        train=make_points(runs, "train"),
        held_out=make_points(runs, "held_out"),
    )


def show(curve: ReferenceCurve) -> None:
    """Prints some points of a curve, training first."""
    for split, points in (("training", curve.train), ("held-out documents", curve.held_out)):
        steps = sorted(points)
        shown = [step for step in steps if step == steps[-1] or steps.index(step) % -(-len(steps) // SHOWN_POINTS) == 0]
        rows = [
            (f"{step:,}", *(_range(name, points[step][name].low, points[step][name].high) for name in SHOWN))
            for step in shown
        ]
        print_table(f"{split}, seeds {', '.join(map(str, curve.seeds))}", ("step", *SHOWN), rows)


def _range(name: str, low: float, high: float) -> str:
    return f"{format_value(name, low)} to {format_value(name, high)}"


if __name__ == "__main__":
    run_command(main)
