"""When no step ends for a long time: every host says where it is, and where the others are."""

import faulthandler
import math
import sys
import threading
import time
from typing import IO

import jax
from jax.sharding import Mesh

from core_jax import distributed
from core_jax.stopwatch import Stopwatch

PHASES = {
    "": "between two things that are timed",
    "step": "the devices compute it, or wait for each other in a collective",
    "compile": "it is the first one, and is compiled, or waits in a collective",
    "data_wait": "the host waits for its batch: the source of the data, or a process that draws examples",
    "checkpoint": "the state is being saved: the file system, or another host",
    "evaluation": "the held-out examples are scored: longer than --hang_limit, or in a collective",
}


def describe_collectives(mesh: Mesh) -> str:
    """What the devices of a mesh exchange in a step, and over which axes: where they can wait for each other."""
    kinds = {
        "data": "all-reduce of gradients",
        "fsdp": "all-gather of parameters and reduce-scatter of gradients",
        "tensor": "all-reduce of activations",
    }
    found = [f"{kinds[axis]} over {axis}:{size}" for axis, size in mesh.shape.items() if size > 1]
    return "; ".join(found) or "none: there is one device"


class HangWatch:
    """A thread that looks whether steps end."""

    def __init__(
        self, limit: float, stopwatch: Stopwatch, step: int, collectives: str = "", output: IO[str] | None = None
    ):
        """Watches inside a `with` block.

        Args:
          limit: seconds without the end of a step after which to report; 0: never.
          stopwatch: knows what is being done.
          step: number of steps taken.
          collectives: of a step, from `describe_collectives`.
          output: a file that the operating system knows; by default stderr.
        """
        self._limit, self._stopwatch, self._collectives = limit or math.inf, stopwatch, collectives
        self._output = output or sys.stderr
        self._step, self._since, self._reported = step, time.monotonic(), False
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hangs", daemon=True)

    def advance(self, step: int) -> None:
        """Notes that a step has ended: so many are taken."""
        if self._reported:
            self._say(f"step {step} has ended after {time.monotonic() - self._since:.0f} s: it was no hang")
            distributed.forget_place()
        self._step, self._since, self._reported = step, time.monotonic(), False

    def __enter__(self) -> "HangWatch":
        self._since = time.monotonic()
        if self._limit < math.inf:
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._leaving.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self):
        while not self._leaving.wait(min(self._limit / 10, 1.0)):
            if not self._reported and time.monotonic() - self._since > self._limit:
                self._reported = True
                self._report()

    def _report(self):
        phase = self._stopwatch.phase
        place = f"step {self._step + 1}, {phase or 'other'}"
        self._say(
            f"hang: no step has ended for {self._limit:.0f} s (--hang_limit). Here, in step {self._step + 1} "
            f"({phase or 'other'}): {PHASES[phase]}. Collectives of a step: {self._collectives}."
        )
        self._say("Python stacks of this process:")
        faulthandler.dump_traceback(self._output, all_threads=True)
        try:
            places = distributed.compare_places(place)
        except jax.errors.JaxRuntimeError as error:
            self._say(f"where the other processes are cannot be asked: {error}")
            return
        if places:
            self._say("all processes: " + "; ".join(f"{peer}: {told}" for peer, told in sorted(places.items())))
            self._say("the one that is elsewhere than the others is the one that they wait for: see its stacks")

    def _say(self, text):
        print(text, file=self._output, flush=True)
