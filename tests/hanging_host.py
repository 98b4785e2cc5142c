"""`python -m tests.hanging_host ...`: experiments.pretrain, but the second process gets no data after some steps."""

import itertools
import threading

import jax

from core_jax.stopwatch import Stopwatch
from experiments import pretrain
from experiments.console import run_command

STEPS = 4


def hang_after_some_steps() -> None:
    next_batch, calls = Stopwatch.next_batch, itertools.count()

    def hanging(self, batches, running):
        if jax.process_index() == 1 and next(calls) == STEPS:
            self.phase = "data_wait"
            threading.Event().wait()
        return next_batch(self, batches, running)

    Stopwatch.next_batch = hanging


if __name__ == "__main__":
    hang_after_some_steps()
    run_command(pretrain.main)
