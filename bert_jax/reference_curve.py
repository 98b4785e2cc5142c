"""The expected course of the default run, by step, and whether another run keeps to it.

`reference_curve.json` is written by `experiments.reference_curve` from runs that differ in their seed alone;
`curve_bands.py` says how its bands are made.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from bert_jax.config import BertPretraining
from core_jax.config import OptimizerConfig, differences, from_json, require

FILE = resources.files("bert_jax") / "reference_curve.json"
VALUES = ("loss", "mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy")  # that a curve has
# Fields that two runs may differ in and still be two draws of one curve. `preset` is a name; `dtype` and `scan_layers`
# say how the same is computed; passes of evaluation make its scores less noisy.
UNIMPORTANT = {"preset", "seed", "dtype", "scan_layers", "evaluation_passes", "data_dir"}
# How one learns: what it is measured by stays the same, so that a run can be held against the curve, and a difference
# here is the first suspect. Text, vocabulary, masking, model, batch and --steps are something else to measure.
RECIPE = {field.name for field in dataclasses.fields(OptimizerConfig)} | {
    *("dropout", "attention_dropout", "initializer_range"),
}
Line = Mapping[str, Any]  # of metrics.jsonl
Points = dict[int, dict[str, "Band"]]  # by step, then by value


class Band(NamedTuple):
    """What to expect of a value at a step."""

    low: float  # below is outside
    lowest: float  # of the runs that the curve was made of
    mean: float
    highest: float
    high: float  # above is outside


@dataclasses.dataclass(frozen=True)
class ReferenceCurve:
    """What was seen of runs with several seeds, and what they have in common."""

    config: BertPretraining  # of the first of them
    seeds: tuple[int, ...]
    vocabulary: str  # hash of its pieces
    unigram_loss: float  # held-out loss, in nats, of the frequencies of words
    device: str
    versions: dict[str, str]
    command: str  # that made it
    train: Points  # means over the steps since the point before
    held_out: Points


@dataclasses.dataclass(frozen=True)
class Judgement:
    """One value of a run beside its band."""

    split: str  # train or held_out
    step: int
    name: str
    value: float
    band: Band

    @property
    def excess(self) -> float:
        """How far outside, in distances from the band's mean to its edge: 0 inside, negative below, positive above."""
        low, _, mean, _, high = self.band
        if not math.isfinite(self.value):
            return math.inf
        if low <= self.value <= high:
            return 0.0
        edge = low if self.value < low else high
        return (self.value - edge) / max(abs(edge - mean), 1e-9)

    @property
    def is_worse(self) -> bool:
        """Whether it is outside on the bad side."""
        return self.excess > 0 if self.name.endswith("loss") or not math.isfinite(self.value) else self.excess < 0

    @property
    def is_better(self) -> bool:
        """Whether it is outside on the good side."""
        return bool(self.excess) and not self.is_worse


def load_curve() -> ReferenceCurve:
    """The curve in this repository."""
    return parse_curve(FILE.read_text())


def format_curve(curve: ReferenceCurve) -> str:
    """A curve as JSON, a line for each point."""
    about = {name: getattr(curve, name) for name in ("seeds", "vocabulary", "unigram_loss", "device", "versions")}
    about |= {"command": curve.command, "bands": Band._fields, "config": dataclasses.asdict(curve.config)}
    points = [
        json.dumps({"split": split, "step": step} | {name: [round(x, 5) for x in band] for name, band in bands.items()})
        for split in ("train", "held_out")
        for step, bands in getattr(curve, split).items()
    ]
    return f'{{"about": {json.dumps(about, indent=2)},\n"points": [\n' + ",\n".join(points) + "\n]}\n"


def parse_curve(text: str) -> ReferenceCurve:
    """Reads what `format_curve` wrote."""
    content = json.loads(text)
    about = content["about"]
    points: dict[str, Points] = {"train": {}, "held_out": {}}
    for point in content["points"]:
        split, step = point.pop("split"), point.pop("step")
        points[split][step] = {name: Band(*band) for name, band in point.items()}
    return ReferenceCurve(
        config=from_json(BertPretraining, json.dumps(about["config"])),
        seeds=tuple(about["seeds"]),
        vocabulary=about["vocabulary"],
        unigram_loss=about["unigram_loss"],
        device=about["device"],
        versions=about["versions"],
        command=about["command"],
        train=points["train"],
        held_out=points["held_out"],
    )


def important_differences(config: BertPretraining, reference: BertPretraining) -> dict[str, tuple[Any, Any]]:
    """The settings in which two runs differ, if they change the curve: {name: (ours, that of the reference)}."""
    found = differences(config, reference)
    # Where the learning rate goes down to the last step, more steps are another course from the first on.
    steps = config.training.steps, reference.training.steps
    if steps[0] != steps[1]:
        found["steps"] = steps
    return {name: pair for name, pair in found.items() if name not in UNIMPORTANT}


def changed_recipe(config: BertPretraining, curve: ReferenceCurve) -> dict[str, tuple[Any, Any]]:
    """What a run does otherwise than the reference without being incomparable: {name: (ours, the reference's)}."""
    return {name: pair for name, pair in important_differences(config, curve.config).items() if name in RECIPE}


def check_comparable(config: BertPretraining, curve: ReferenceCurve) -> None:
    """Refuses a run that the curve says nothing about.

    Raises:
      UserError: with the flags that differ.
    """
    found = {name: pair for name, pair in important_differences(config, curve.config).items() if name not in RECIPE}
    lines = "\n".join(
        f"  --{name}: {theirs!r} in the reference, {ours!r} here" for name, (ours, theirs) in found.items()
    )
    require(
        not found,
        f"--check_curve: the reference is of another run:\n{lines}\nIt holds for the default run: type "
        "`python -m experiments.pretrain --workdir=NEW` to see whether that learns here as it should",
    )


def judge(curve: ReferenceCurve, lines: Sequence[Line]) -> list[Judgement]:
    """Holds the newest values of a run against the curve.

    Args:
      curve: of comparable runs.
      lines: of metrics.jsonl, oldest first.
    Returns:
      First those of training; those on held-out text follow, if there are some.
    Raises:
      UserError: there are too few lines yet.
    """
    steps, means = _newest_stretch([line for line in lines if line["split"] == "train"], min(curve.train))
    found = _judge_all("train", steps[-1], means, expected_in_training(curve, steps))
    scored = [line for line in lines if line["split"] == "held_out" and line["step"] >= min(curve.held_out)]
    for line in scored[-1:]:
        found += _judge_all("held_out", line["step"], line, expected_on_held_out(curve, line["step"]))
    return found


def _judge_all(split: str, step: int, values: Line, bands: Mapping[str, Band]) -> list[Judgement]:
    return [Judgement(split, step, name, values[name], bands[name]) for name in VALUES]


def _newest_stretch(lines: Sequence[Line], enough: int) -> tuple[range, dict[str, float]]:
    """The last steps, at least `enough` of them, and the means over these: fewer would be noisier than the band."""
    steps = [0, *(line["step"] for line in lines)]
    require(
        steps[-1] >= enough,
        f"--check_curve: there is no verdict before step {enough}, and metrics.jsonl goes to step {steps[-1]}: "
        "a line comes every --log_every steps; type it again later",
    )
    first = next(index for index in reversed(range(len(lines))) if steps[-1] - steps[index] >= enough)
    lengths = np.diff(steps[first:])
    means = {name: float(np.average([line[name] for line in lines[first:]], weights=lengths)) for name in VALUES}
    return range(steps[first] + 1, steps[-1] + 1), means


def expected_in_training(curve: ReferenceCurve, steps: range) -> dict[str, Band]:
    """The band of a mean over training steps: the mean of the bands of the points that those steps are part of.

    Args:
      curve: whose points are means over the steps since the point before.
      steps: that the mean is over.
    """
    ends = np.array(sorted(curve.train))
    of_steps = ends[np.minimum(np.searchsorted(ends, np.array(steps)), len(ends) - 1)]
    return {name: Band(*np.mean([curve.train[end][name] for end in of_steps], axis=0).tolist()) for name in VALUES}


def expected_on_held_out(curve: ReferenceCurve, step: int) -> dict[str, Band]:
    """The band of a score on held-out text: on the straight line between the points before and behind a step."""
    at = sorted(curve.held_out)
    columns = {name: np.transpose([curve.held_out[point][name] for point in at]) for name in VALUES}
    return {name: Band(*(float(np.interp(step, at, column)) for column in columns[name])) for name in VALUES}
