"""From runs that differ in their seed to the band in which one more run is expected.

The band of a value at a step is a prediction interval for a further run, mean ± sqrt(t²·s²·(1 + 1/n)) over n runs (Hahn
and Meeker 1991, Statistical Intervals). A few runs tell little about their variance s² at one step, so that of
NEIGHBOURS points on either side counts as well. It has two parts, each with a t of its own, whose squares add up: the
noise of single points, of which many are seen; and what a run keeps for many steps, such as leaving the plateau of next
sentence prediction some hundred steps before another, of which only n are. Where runs differ by noise alone that is
wider than need be; where they differ for long it is as wide as it must be. What was seen lies in the band.
"""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

from bert_jax.reference_curve import VALUES, Band, Line, Points
from core_jax.config import require

CONFIDENCE = 0.99  # chance of a value of a further run to lie inside
NEIGHBOURS = 3
Run = Sequence[Line]


def make_points(runs: Sequence[Run], split: str) -> Points:
    """The bands of all values at all steps.

    Args:
      runs: two or more, each its lines of metrics.jsonl, with the same steps.
      split: train or held_out.
    Raises:
      UserError: too few runs, or they were not logged at the same steps.
    """
    require(len(runs) >= 2, f"a band needs two runs or more, and there is {len(runs)}: use a larger --seeds")
    chosen = [[line for line in run if line["split"] == split] for run in runs]
    steps = [[line["step"] for line in run] for run in chosen]
    require(
        bool(steps[0]) and all(other == steps[0] for other in steps),
        f"the runs have {split} lines at different steps: use the same --log_every, --evaluate_every and --steps",
    )
    values = {name: np.array([[line[name] for line in run] for run in chosen], float) for name in VALUES}
    highest_possible = {name: 1.0 if name.endswith("accuracy") else np.inf for name in VALUES}
    bands = {name: _bands(values[name], highest_possible[name]) for name in VALUES}
    return {step: {name: bands[name][index] for name in VALUES} for index, step in enumerate(steps[0])}


def _bands(values: Float[np.ndarray, "runs points"], highest_possible: float) -> list[Band]:
    """The bands of one value, which is never below 0."""
    points = values.shape[1]
    lowest, mean, highest = values.min(axis=0), values.mean(axis=0), values.max(axis=0)
    around = [slice(max(0, point - NEIGHBOURS), point + NEIGHBOURS + 1) for point in range(points)]
    half = np.array([_half_width((values - mean)[:, some]) for some in around])
    low = np.minimum(np.maximum(mean - half, 0), lowest)
    high = np.maximum(np.minimum(mean + half, highest_possible), highest)
    return [Band(*band) for band in np.transpose((low, lowest, mean, highest, high)).tolist()]


def _half_width(deviations: Float[np.ndarray, "runs points"]) -> float:
    """From the mean of a band to its edge, of deviations from the mean over the runs at some neighbouring points."""
    runs, points = deviations.shape
    kept = deviations.mean(axis=1, keepdims=True)
    lasting = float((kept**2).sum()) / (runs - 1)
    # Of points around their mean: the mean has its share of their noise in it already.
    noise = float(((deviations - kept) ** 2).sum()) / ((runs - 1) * points)
    squares = _student(runs - 1) ** 2 * lasting
    if points > 1:
        squares += _student((runs - 1) * (points - 1)) ** 2 * noise
    return float(np.sqrt(squares * (1 + 1 / runs)))


@functools.cache
def _student(freedoms: int) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedoms))


def outside_share(runs: Sequence[Run]) -> float:
    """The share of all values of a run that lie outside the bands of the others, over all runs: of false alarms.

    Args:
      runs: three or more.
    """
    outside = []
    for index, run in enumerate(runs):
        others = [other for number, other in enumerate(runs) if number != index]
        for split in ("train", "held_out"):
            points = make_points(others, split)
            for line in (line for line in run if line["split"] == split):
                bands = points[line["step"]]
                outside += [not bands[name].low <= line[name] <= bands[name].high for name in VALUES]
    return sum(outside) / len(outside)
