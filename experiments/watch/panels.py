"""What the script of the page draws: the curves of all runs, by metric."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.watch.catalogue import BASELINES, CHANCES, Metric, describe, is_curve, ordered
from experiments.watch.curves import Split, rounded, thinned
from experiments.watch.runs import Run

ALL_POINTS = 70_000  # of all curves of a page: each takes some 30 bytes
FEWEST, MOST = 20, 600  # points of a curve: more than the pixels that a panel is wide are not seen
HELD_OUT = {"held_out": "held-out"}  # splits whose name is not what a person calls them


def build_panels(runs: Mapping[str, Run]) -> list[dict[str, Any]]:
    """The panels in their order.

    Returns:
      Of each the metric's name, title, unit, group, format and whether it is smoothed; `series`: for each run and split
      the place of the run, the name of the split, whether it is of training, a baseline, and the thinned curve.
    """
    splits = [split for run in runs.values() for split in run.curves.splits.values()]
    names = [name for name in ordered({name for split in splits for name in split.columns}) if is_curve(name)]
    count = sum(name in split.columns for split in splits for name in names)
    points = min(max(ALL_POINTS // max(count, 1), FEWEST), MOST)
    panels = [_panel(describe(name), list(runs.values()), points) for name in names]
    return [panel for panel in panels if panel["series"]]


def _panel(metric: Metric, runs: Sequence[Run], points: int):
    series = [
        {
            "run": place,
            "split": "training" if name == "train" else HELD_OUT.get(name, name),
            "training": name == "train",
            "baseline": baseline(metric.name, run),
            **thinned(*split.series(metric.name), points),
        }
        for place, run in enumerate(runs)
        for name, split in run.curves.splits.items()
        if _says_something(metric.name, split)
    ]
    return {
        "name": metric.name,
        "title": metric.title,
        "unit": metric.unit,
        "group": metric.group,
        "format": metric.format,
        "smooths": metric.smooths,
        "series": series,
    }


def _says_something(name: str, split: Split) -> bool:
    """Whether a curve has points, and is not that of a share which is 1 all along."""
    values = split.series(name)[1]
    return len(values) > 0 and not (name.startswith("useful_") and bool(np.all(values == 1)))


def baseline(name: str, run: Run) -> float | None:
    """What a model without context reaches in a metric, by the newest scores of a run; None where it has no such."""
    for other in BASELINES.get(name, ()):
        recorded = [split.newest(other) for split in run.curves.splits.values()]
        if value := next((value for value in reversed(recorded) if value is not None), None):
            return value
        if other in CHANCES and any(name in split.columns for split in run.curves.splits.values()):
            return CHANCES[other]
    return None


def build_runs(runs: Mapping[str, Run]) -> list[dict[str, Any]]:
    """Of each run its name, what it counts its examples in, and how far it had come at its steps: the other axes."""
    found = []
    for name, run in runs.items():
        elapsed = run.curves.elapsed()
        few = np.unique(np.linspace(0, len(elapsed["steps"]) - 1, MOST).astype(int))
        axes = {axis: rounded(values[few]) for axis, values in elapsed.items()}
        found.append({"name": name, "unit": run.curves.unit(), "elapsed": axes})
    return found
