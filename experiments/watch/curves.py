"""The curves of a run: metrics.jsonl read as it grows, and thinned to what a screen can show."""

import json
import math
from array import array

import numpy as np
from etils import epath
from jaxtyping import Float

DIGITS = 6  # significant ones, of every number in the page
SPEED = "steps_per_second"
UNITS = {  # what a rate counts
    "useful_tokens_per_second": "tokens",
    "images_per_second": "images",
    "seconds_of_sound_per_second": "seconds of sound",
}


class Split:
    """The lines of one split as columns: a million lines of 20 values take 160 MB."""

    def __init__(self):
        self.steps = array("d")
        self.columns: dict[str, array] = {}
        self.not_finite: dict[str, int] = {}  # the first step at which a metric was no number, by metric

    def add(self, step: float, values: dict[str, float]) -> None:
        """Takes in a line; a value that it does not have is not a number."""
        for name in values.keys() - self.columns.keys():
            self.columns[name] = array("d", [math.nan]) * len(self.steps)
        self.steps.append(step)
        for name, column in self.columns.items():
            value = values.get(name, math.nan)
            column.append(value)
            if name in values and not math.isfinite(value):
                self.not_finite.setdefault(name, int(step))

    def series(self, name: str) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
        """Steps and values of a metric, where it has a finite value."""
        steps, values = np.array(self.steps), np.array(self.columns.get(name, array("d")))
        there = np.isfinite(values)
        return steps[: len(values)][there], values[there]

    def newest(self, name: str) -> float | None:
        """The last finite value of a metric."""
        column = self.columns.get(name, array("d"))
        return next((value for value in reversed(column) if math.isfinite(value)), None)


class Curves:
    """What metrics.jsonl holds, by split; `read` takes in what was added since."""

    def __init__(self, workdir: epath.PathLike):
        self._path = epath.Path(workdir) / "metrics.jsonl"
        self._forget()

    def _forget(self):
        self._end, self._newest = 0, b""  # of what was read: its length and last line
        self.splits: dict[str, Split] = {}
        self.unreadable = 0  # lines that are no record

    def read(self) -> None:
        """Reads the lines that are new; all of them where the run went back to a checkpoint and wrote the file anew."""
        if not self._path.exists():
            self._forget()
            return
        with self._path.open("rb") as file:
            file.seek(self._end - len(self._newest))
            if file.read(len(self._newest)) != self._newest:
                self._forget()
                file.seek(0)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # still being written, or cut off by a kill
                self._take(line)
                self._end, self._newest = self._end + len(line), line

    def _take(self, line):
        try:
            record = json.loads(line)
            step, split = float(record.pop("step")), record.pop("split")
        except (ValueError, KeyError, TypeError, AttributeError):
            self.unreadable += 1
            return
        values = {name: float(value) for name, value in record.items() if isinstance(value, int | float)}
        self.splits.setdefault(str(split), Split()).add(step, values)

    @property
    def train(self) -> Split:
        """The lines of training; empty before the first."""
        return self.splits.get("train", Split())

    @property
    def scored(self) -> dict[str, Split]:
        """The lines of examples that are only scored, by split."""
        return {name: split for name, split in self.splits.items() if name != "train"}

    def last_step(self) -> int:
        """Of all splits; 0 where nothing was logged."""
        return int(max((split.steps[-1] for split in self.splits.values()), default=0))

    def unit(self) -> str:
        """What the run counts its examples in; empty where nothing was logged."""
        return next((unit for rate, unit in UNITS.items() if rate in self.train.columns), "")

    def elapsed(self) -> dict[str, Float[np.ndarray, " N"]]:
        """How far training had come at each of its lines, from 0 on.

        Returns:
          `steps`; the `seconds` that these took, without compiling, scoring, saving and interruptions; how many tokens
          or images were `seen`.
        """
        steps, speeds = self.train.series(SPEED)
        taken = np.diff(steps, prepend=0.0)
        seconds = taken / np.maximum(speeds, 1e-9)
        columns = {"steps": taken, "seconds": seconds}
        for rate in UNITS:
            found, rates = self.train.series(rate)
            if len(rates) and len(steps):
                columns["seen"] = seconds * np.interp(steps, found, rates)
        return {name: np.concatenate([[0.0], np.cumsum(column)]) for name, column in columns.items()}


def thinned(
    steps: Float[np.ndarray, " N"], values: Float[np.ndarray, " N"], points: int
) -> dict[str, list[float | int]]:
    """A curve of at most so many points, in which every spike is still seen.

    Args:
      steps: rising.
      values: finite.
      points: stretches to which a longer curve is reduced.
    Returns:
      `steps` and `values`; of a reduced curve the last step and the mean of each stretch, with its extremes `low` and
      `high`.
    """
    if len(steps) <= points:
        return {"steps": rounded(steps), "values": rounded(values)}
    starts = np.arange(points) * len(steps) // points
    ends = np.append(starts[1:], len(steps))
    return {
        "steps": rounded(steps[ends - 1]),
        "values": rounded(np.add.reduceat(values, starts) / (ends - starts)),
        "low": rounded(np.minimum.reduceat(values, starts)),
        "high": rounded(np.maximum.reduceat(values, starts)),
    }


def rounded(values: Float[np.ndarray, " N"]) -> list[float | int]:
    """Numbers as short as they can be in the page: whole ones exactly, others to some digits."""
    return [int(value) if value == int(value) else float(f"{value:.{DIGITS}g}") for value in values.tolist()]
