"""Where the time of a run went."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jaxtyping import Array, PyTree

REASONS = ("step", "compile", "data_wait", "checkpoint", "evaluation")


class Stopwatch:
    """Adds up the seconds in which steps were computed, and those in which the devices had none to compute, by reason.

    A wait for data counts only if no step was still running when the data came: otherwise the devices were busy with
    it. What counts is the whole wait, so the share is an upper bound.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._start = self._lap = clock()
        self.seconds: dict[str, float] = dict.fromkeys(REASONS, 0.0)
        self.phase = ""  # what is being done now, of REASONS

    def next_batch(self, batches: Iterator[Any], running: PyTree[Array] | None) -> Any:
        """The next batch; the time until it came is a wait unless the step `running` still runs when it is there."""
        start, self.phase = self._clock(), "data_wait"
        batch = next(batches)
        self.phase = ""
        idle = running is None or all(leaf.is_ready() for leaf in jax.tree.leaves(running))
        self.seconds["data_wait" if idle else "step"] += self._clock() - start
        return batch

    @contextlib.contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Counts what happens inside under `name`, and leaves it out of the current lap unless it is a step."""
        start, self.phase = self._clock(), name
        yield
        self.phase = ""
        spent = self._clock() - start
        self.seconds[name] += spent
        if name != "step":
            self._lap += spent

    def lap(self) -> float:
        """Seconds since the last lap, spans left out; at least a microsecond."""
        now = self._clock()
        seconds, self._lap = now - self._lap, now
        return max(seconds, 1e-6)

    def total(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    def shares(self) -> dict[str, float]:
        """Each reason's share of all the time since the start: {"data_wait_share": 0.01, ...}.

        They add up to 1, since what has no reason is the `other_share`. The share of steps is also the `goodput`.
        """
        total = max(self.total(), 1e-6)
        shares = {f"{reason}_share": seconds / total for reason, seconds in self.seconds.items()}
        return shares | {"other_share": max(1 - sum(shares.values()), 0.0), "goodput": shares["step_share"]}
