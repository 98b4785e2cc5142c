"""What a run that is scored after each epoch writes down, and the parameters of its best epoch."""

import os
from collections.abc import Callable
from typing import Any

from jaxtyping import PyTree

from core_jax.checkpoints import Checkpoints, saved_steps
from core_jax.distributed import first_decides
from core_jax.train import State
from core_jax.workdir import Recorder
from experiments.console import say
from experiments.tuning_history import History

BEST = "best"  # folder for the parameters of the best epoch


class EpochRecords:
    """Writes scores down, and keeps the best parameters.

    Attributes:
      history: what has been written down.
      is_stuck: whether as many epochs as --patience says brought nothing better.
    """

    def __init__(self, history: History, epoch_steps: int, marks: dict[str, str], first_step: int):
        """Opens the records of a run that goes on.

        Args:
          history: of the run.
          epoch_steps: steps of an epoch.
          marks: what the parameters belong to beside their shapes.
          first_step: that it goes on from.
        """
        self.history, self._epoch_steps = history, epoch_steps
        self._recorder = Recorder(history.workdir, first_step)
        self._folder = os.path.join(history.workdir, BEST)
        self._best = Checkpoints(self._folder, keep=1, identity=marks, report=say)
        self.is_stuck = self._look()

    def record(self, number: int, values: dict[str, float]) -> None:
        """Writes down what was measured in training."""
        self._recorder.write(number, "train", values)

    def is_scored(self, number: int) -> bool:
        """Whether the validation examples were scored after so many steps."""
        return first_decides(lambda: self.history.is_scored(number))

    def keep(self, number: int, scores: dict[str, float], state: State, params: PyTree) -> None:
        """Writes scores down, and keeps the parameters if they are the best so far."""
        if first_decides(lambda: self.history.is_better(scores)):
            if not first_decides(lambda: number in saved_steps(self._folder)):
                self._best.save(number, State(state.step, params, {}, state.key))
            self._best.wait()  # before the score is written: it would be the best, with no parameters of it
        self._recorder.write(number, "validation", scores)
        self.is_stuck = self._look()

    def _look(self):
        """Only a score changes it."""
        return bool(self.history.patience) and first_decides(lambda: self.history.is_stuck(self._epoch_steps))

    def close(self) -> None:
        """Waits for what is being written."""
        self._best.close()
        self._recorder.close()


def both(*functions: Callable[..., Any]) -> Callable[..., None]:
    """Calls one after the other."""

    def call(*arguments):
        for function in functions:
            function(*arguments)

    return call
