"""The arithmetic of the benchmark: rates, ratios of each round, agreement, and the table."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.benchmark.modes import GENERATION, IMAGES, MODES, Task

# Largest relative difference from the peer's float32 of the loss, or of the pooled states, by type of computation.
TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-2}
GOALS: dict[Task, float] = {"training": 1.5, "inference": 1.3, "finetuning": 1.5, "embedding": 1.5}
GOALS |= {"image training": 1.3, "image inference": 1.3, GENERATION: 1.3}
Entry = tuple[str, str]  # mode and batching, such as ("eager-bfloat16", "grouped")


@dataclasses.dataclass
class Cell:
    """What was measured for one task at one length."""

    task: Task
    sequence_length: int
    checks: dict[str, list[float]] = dataclasses.field(default_factory=dict)  # by mode: what must agree
    warm_ups: dict[str, float] = dataclasses.field(default_factory=dict)  # by mode: seconds, with compilation and check
    rates: dict[Entry, list[float]] = dataclasses.field(default_factory=dict)  # units a second, by round
    processor_rates: dict[Entry, list[float]] = dataclasses.field(default_factory=dict)  # units a processor second
    peak_bytes: dict[str, int] = dataclasses.field(default_factory=dict)  # by mode

    def add(self, mode: str, answer: Mapping[str, Any]) -> None:
        """Adds what a mode measured in a round."""
        self.peak_bytes[mode] = answer["peak_bytes"]
        for batching, (seconds, count, processor_seconds) in answer["rates"].items():
            self.rates.setdefault((mode, batching), []).append(count / seconds)
            self.processor_rates.setdefault((mode, batching), []).append(count / processor_seconds)

    @property
    def unit(self) -> str:
        """What is counted."""
        if self.task == GENERATION:
            return "new tokens"
        return "images" if self.task in IMAGES else "useful tokens"

    def entries(self, *, ours: bool) -> list[Entry]:
        """The entries of one side, the fastest first."""
        found = [entry for entry in self.rates if MODES[entry[0]].is_ours == ours]
        return sorted(found, key=lambda entry: -statistics.median(self.rates[entry]))

    def ratios(self, entry: Entry, *, of_processor: bool = False) -> list[float]:
        """How many times as fast as an entry our fastest one was, in each round; or as sparing of the processor."""
        best, rates = self.entries(ours=True)[0], self.processor_rates if of_processor else self.rates
        return [ours / other for ours, other in zip(rates[best], rates[entry], strict=True)]

    def differences(self) -> dict[str, float]:
        """How far each mode's results are from the peer's float32, relative; empty where there is none."""
        references = [name for name in self.checks if not MODES[name].is_ours and MODES[name].dtype == "float32"]
        if not references:
            return {}
        reference = self.checks[references[0]]
        return {name: relative_difference(found, reference) for name, found in self.checks.items()}

    def disagreements(self) -> list[str]:
        """Modes that compute something else than the peer; there must be none, or a ratio would mean nothing."""
        return [
            f"{self.task} at {self.sequence_length}: {name} differs from the peer's float32 by {difference:.1e}, more "
            f"than {TOLERANCES[MODES[name].dtype]:.0e}"
            for name, difference in self.differences().items()
            if not difference <= TOLERANCES[MODES[name].dtype]
        ]


def relative_difference(found: Sequence[float], reference: Sequence[float]) -> float:
    """The norm of the difference of two vectors, as a share of the second's norm; infinite if their sizes differ."""
    if len(found) != len(reference):
        return float("inf")
    return float(np.linalg.norm(np.subtract(found, reference)) / np.linalg.norm(reference))


def columns(cell: Cell) -> tuple[str, ...]:
    """Names of what `table` has."""
    unit = cell.unit.rsplit(maxsplit=1)[-1]
    return "mode, batches", f"{unit}/s", "ours / this", "by CPU time", "differs", "memory"


def table(cell: Cell) -> list[tuple[str, ...]]:
    """Rows of text: mode and batching; units a second; ratios with their ranges; difference; peak memory."""
    differences, rows = cell.differences(), []
    for entry in (*cell.entries(ours=True), *cell.entries(ours=False)):
        mode, batching = entry
        rate = statistics.median(cell.rates[entry])
        differs = f"{differences[mode]:.0e}" if mode in differences else ""
        peak = f"{cell.peak_bytes[mode] / 1e9:.2f} GB"
        ratios = [describe_ratios(cell.ratios(entry, of_processor=processor)) for processor in (False, True)]
        rows.append((f"{mode}, {batching}", describe_rate(rate), *ratios, differs, peak))
    return rows


def describe_rate(rate: float) -> str:
    """As many digits as mean something."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def describe_ratios(ratios: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def verdict(cell: Cell) -> str:
    """One line: our fastest against the peer's fastest, in speed and memory."""
    [ours, *_], peers = cell.entries(ours=True), cell.entries(ours=False)
    name = f"{cell.task} at {cell.sequence_length}"
    if not peers:
        return f"{name}: {describe_rate(statistics.median(cell.rates[ours]))} {cell.unit} a second"
    ratio = statistics.median(cell.ratios(peers[0]))
    memory = cell.peak_bytes[ours[0]] / cell.peak_bytes[peers[0][0]]
    seconds = cell.warm_ups.get(ours[0])
    warm_up = "" if seconds is None else f"; ours compiles, checks and warms up in {seconds:.0f} s"
    return (
        f"{name}: {ratio:.2f} times the peer's best ({', '.join(peers[0])}), goal {GOALS[cell.task]}; "
        f"{memory:.2f} times its peak memory{warm_up}"
    )


def as_json(cell: Cell) -> dict[str, Any]:
    """All figures of a cell."""
    return {
        "task": cell.task,
        "sequence_length": cell.sequence_length,
        "differences": cell.differences(),
        "warm_up_seconds": cell.warm_ups,
        "peak_bytes": cell.peak_bytes,
        "entries": [
            {
                "mode": mode,
                "batching": batching,
                f"{cell.unit.replace(' ', '_')}_per_second": rates,
                f"{cell.unit.replace(' ', '_')}_per_processor_second": cell.processor_rates[mode, batching],
                "ratios": cell.ratios((mode, batching)),
            }
            for (mode, batching), rates in cell.rates.items()
        ],
    }
