"""From runs that differ in their seed to the band in which one more run is expected.

The band of a value at a step is a prediction interval for a further run (Hahn and Meeker 1991, Statistical Intervals,
section 4.2): mean ± t·s·sqrt(1 + 1/n) over n runs, with Student's t. A few runs tell little about the deviation s at
one step, and it changes slowly, so s is that of NEIGHBOURS points on either side as well (root mean square), with as
many times n - 1 degrees of freedom. A check looks at ten values, hence CONFIDENCE. Points of one run hang together, so
that s is known less well than t says: `outside_share` measures what is left of it. What was seen lies in the band.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

from bert_jax.reference_curve import VALUES, Band, Line, Points
from core_jax.config import require

CONFIDENCE = 0.999  # chance of a value of a further run to lie inside
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
    bands = {name: _bands(np.array([[line[name] for line in run] for run in chosen])) for name in VALUES}
    return {step: {name: bands[name][index] for name in VALUES} for index, step in enumerate(steps[0])}


def _bands(values: Float[np.ndarray, "runs points"]) -> list[Band]:
    """The bands of one value."""
    runs, points = values.shape
    variances = values.var(axis=0, ddof=1)
    around = [variances[max(0, point - NEIGHBOURS) : point + NEIGHBOURS + 1] for point in range(points)]
    student = stats.t.ppf((1 + CONFIDENCE) / 2, [len(some) * (runs - 1) for some in around])
    half = student * np.sqrt([some.mean() * (1 + 1 / runs) for some in around])
    lowest, mean, highest = values.min(axis=0), values.mean(axis=0), values.max(axis=0)
    columns = (np.minimum(mean - half, lowest), lowest, mean, highest, np.maximum(mean + half, highest))
    return [Band(*band) for band in np.transpose(columns).tolist()]


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
