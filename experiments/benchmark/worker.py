"""A process that measures one mode: python -m experiments.benchmark.worker MODE FOLDER TASK LENGTH

It is told on its standard input, a line of JSON each, and answers on its standard output; idle otherwise.
"""

import json
import os
import pathlib
import re
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from experiments.benchmark.modes import GENERATION, IMAGES, LABELLED, MODES, Mode
from experiments.benchmark.workplace import Workplace


def open_side(mode: Mode, work: Workplace) -> Any:
    """Ours or the peer's; only one of them is ever imported in a process."""
    if work.task == GENERATION:
        if mode.is_ours:
            from experiments.benchmark.our_generation import OurGeneration

            return OurGeneration.open(mode, work)
        from experiments.benchmark.peer_generation import PeerGeneration

        return PeerGeneration.open(mode, work)
    if work.task in LABELLED:
        if mode.is_ours:
            from experiments.benchmark.our_labels import OurLabels

            return OurLabels.open(mode, work)
        from experiments.benchmark.peer_labels import PeerLabels

        return PeerLabels.open(mode, work)
    if work.task in IMAGES:
        if mode.is_ours:
            from experiments.benchmark.our_vit import OurVit

            return OurVit.open(mode, work)
        from experiments.benchmark.peer_vit import PeerVit

        return PeerVit.open(mode, work)
    if mode.is_ours:
        from experiments.benchmark.ours import Ours

        return Ours.open(mode, work)
    from experiments.benchmark.peer import Peer

    return Peer.open(mode, work)


class Measurement:
    """One mode's batches, by the way they are put together, and its turns."""

    def __init__(self, mode: Mode, work: Workplace):
        self._side = open_side(mode, work)
        self._batches: dict[str, list[Any]] = self._side.batches()

    def prepare(self) -> dict[str, Any]:
        """Checks and warms up; gives what the other side must agree with."""
        start, found = time.perf_counter(), self._side.check()
        for batch in self._side.warm_ups():  # compilers and allocators settle
            self._side.run(batch)
        return {"check": found, "warm_up_seconds": time.perf_counter() - start}

    def round(self, number: int) -> dict[str, Any]:
        """Measures the batches of a round; gives [seconds, what was counted, processor seconds] of each batching."""
        results = {}
        for name, batches in self._batches.items():
            chosen = [number % len(batches)]
            if name == "grouped":  # a longer and a shorter batch, so that every round sees the mean length
                chosen = [_spread(number, len(batches)), len(batches) - 1 - _spread(number, len(batches))]
            self._side.run(batches[chosen[0]])  # a step that follows others, as in a loop, finds its memory at hand
            start = time.process_time()
            runs = [self._side.run(batches[index]) for index in chosen]
            processor = time.process_time() - start
            results[name] = [sum(seconds for seconds, _ in runs), sum(count for _, count in runs), processor]
        return {"rates": results, "peak_bytes": peak_bytes()}


def _spread(number: int, count: int) -> int:
    """The golden ratio's multiples fill 0 .. count / 2 evenly, however many rounds there are."""
    return int((number + 0.5) * 0.6180339887498949 % 1.0 * ((count + 1) // 2))


def peak_bytes() -> int:
    """The most memory that this process has held."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # what getrusage says on Linux takes in the process that started this one
        [peak] = re.findall(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE)
        return int(peak) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def serve(answer: Callable[[dict], None], mode: Mode, work: Workplace) -> None:
    """Answers requests until the input ends."""
    measurement = Measurement(mode, work)
    for line in sys.stdin:
        request = json.loads(line)
        answer(measurement.prepare() if request == "prepare" else measurement.round(request))


def main() -> None:
    """Serves one mode; what libraries print goes to the standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    name, folder, task, length = sys.argv[1:]

    def answer(value: dict) -> None:
        answers.write(json.dumps(value) + "\n")

    serve(answer, MODES[name], Workplace(folder, task, int(length)))  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    main()
