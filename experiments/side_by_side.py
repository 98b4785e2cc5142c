"""Runs of fine-tuning that differ in their seed alone, trained at once, each on a slice of the mesh.

Every run fills its own work folder as if it were alone, so that the same command goes on with it either way.
"""

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from typing import Any, cast

import jax

from bert_jax import finetuning
from bert_jax.seed_batches import batches_of_seeds
from core_jax.checkpoints import Checkpoints, saved_steps
from core_jax.run_lock import lock
from core_jax.side_by_side import move_to_slice, split_mesh, stack, take, values_of_run
from core_jax.stopwatch import Stopwatch
from core_jax.train import Hooks, NonFiniteLossError, State, fit
from core_jax.workdir import filling
from experiments import tuning, tuning_results
from experiments.console import StepProgress, say
from experiments.tuning import EpochScores, Run

Scores = dict[str, float]


def groups(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs in the order in which they are trained: those of a group at once, if it has several.

    A group differs in its seed alone, has come equally far, and is as large as divides the mesh's data axis.
    """
    alike: dict[Any, list[Run]] = {}
    for run in {run.workdir: run for run in runs}.values():  # a grid may name one twice
        setting = dataclasses.replace(run.config, tuning=dataclasses.replace(run.config.tuning, seed=0))
        alike.setdefault((setting, _newest_step(run)), []).append(run)
    found = []
    for members in alike.values():
        while members:
            size = _largest_group(members)
            found.append(members[:size])
            members = members[size:]
    return found


def _newest_step(run):
    return max(saved_steps(os.path.join(run.workdir, "checkpoints")), default=0)


def _largest_group(members):
    first = members[0]
    # With --patience each may end after another epoch; a finished run has only its scores to write down.
    if jax.process_count() > 1 or first.config.tuning.patience or _newest_step(first) >= first.steps:
        return 1
    data = first.material.mesh.shape["data"]
    return max(size for size in range(1, len(members) + 1) if data % size == 0)


def train(runs: Sequence[Run]) -> list[Scores | None] | None:
    """Trains the runs of a group, or goes on with them.

    Returns:
      The best scores of each, None in place of those that were asked to stop; or, where one of them diverged or the
      memory does not hold them all, None: then each is to be trained alone, from its last checkpoint.
    """
    with contextlib.ExitStack() as folders:
        for run in runs:
            folders.enter_context(lock(run.workdir))
            folders.enter_context(filling(run.workdir, run.config))
        try:
            return _train(runs)
        except NonFiniteLossError as error:
            reason = str(error).partition(";")[0]
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            reason = "the devices' memory does not hold so many"
    say(f"{len(runs)} seeds side by side: {reason}; they go on one after the other, from their last checkpoints")
    return None


def _train(runs: Sequence[Run]) -> list[Scores | None] | None:
    stopwatch, stopping = Stopwatch(), runs[0].material.stopping
    with contextlib.ExitStack() as closing:
        together = _Together(runs, closing)
        if together.state is None:
            return None
        number = int(together.state.step)
        if number and number % runs[0].epoch_steps == 0:
            together.score(number, together.state)  # killed, perhaps, between saving and scoring
        state = together.fit(stopwatch)
        number = int(state.step)
        if not stopping():
            with stopwatch.span("evaluation"):
                together.score(number, state)
        del state, together.state  # the memory is that of the scoring now
    if stopping():
        return [None for _ in runs]
    histories = [scores.history for scores in together.scores]
    return [tuning_results.finish(run, number, own, stopwatch) for run, own in zip(runs, histories, strict=True)]


class _Together:
    """Runs that are open: their stacked state, and the files of each."""

    state: State | None  # None where the runs turn out not to have come equally far

    def __init__(self, runs: Sequence[Run], closing: contextlib.ExitStack):
        self.runs, self.whole_mesh = runs, runs[0].material.mesh
        self.mesh = split_mesh(self.whole_mesh, len(runs))
        self.checkpoints: list[Checkpoints] = []
        self.scores: list[EpochScores] = []
        self.state = None
        seeds = ", ".join(str(run.config.tuning.seed) for run in runs)
        devices = self.mesh.devices[0].size
        say(f"seeds {seeds} side by side, each on {devices} of the {self.mesh.size} devices")
        states = []
        for number, run in enumerate(runs):
            checkpoints, state = tuning.starting_state(run)
            closing.callback(checkpoints.close)
            self.checkpoints.append(checkpoints)
            states.append(move_to_slice(state, self.mesh, number))
        steps = {int(state.step) for state in states}
        if len(steps) > 1:  # a checkpoint was damaged
            say("the seeds have not come equally far: they go on one after the other")
            return
        for run in runs:
            self.scores.append(EpochScores(run, min(steps), f"seed {run.config.tuning.seed}: "))
            closing.callback(self.scores[-1].close)
        self.state = stack(states, self.mesh)

    def record(self, number: int, values: Scores) -> None:
        """Writes down what was measured of each run."""
        for place, scores in enumerate(self.scores):
            scores.record(number, values_of_run(values, place))

    def score(self, number: int, state: State) -> None:
        """Scores the validation examples with the parameters of each run, on the whole mesh."""
        state = dataclasses.replace(state, opt={})
        with jax.set_mesh(self.whole_mesh):
            for place, scores in enumerate(self.scores):
                scores.score(number, take(state, place, self.whole_mesh))

    def save(self, number: int, state: State) -> None:
        """Saves the state of each run."""
        with jax.set_mesh(self.whole_mesh):
            for place, checkpoints in enumerate(self.checkpoints):
                checkpoints.save(number, take(state, place, self.whole_mesh))

    def fit(self, stopwatch: Stopwatch) -> State:
        """Trains to the end, or until it is asked to stop."""
        run, state = self.runs[0], self.state
        assert state is not None
        config, model = run.config, cast(Any, run.model)
        smoothing = config.labels.label_smoothing
        step = finetuning.tuning_step(model, run.optimizer, run.steps, smoothing, self.mesh)
        batches = batches_of_seeds(
            run.material.train.texts,
            self.mesh,
            batch_size=config.tuning.global_batch_size,
            sequence_length=config.labels.sequence_length,
            seeds=[one.config.tuning.seed for one in self.runs],
            first_step=int(state.step),
            last_step=run.steps,
        )
        with StepProgress(int(state.step), run.steps) as bar, jax.set_mesh(self.mesh):
            hooks = Hooks(
                record=tuning.both(self.record, lambda number, values: bar.report(number, values, tuning.SHOWN)),
                evaluate=self.score,
                save=self.save,
                advance=bar.advance,
                stopping=run.material.stopping,
            )
            cadence = tuning.cadence_of(run)
            return fit(state, step, batches, last_step=run.steps, cadence=cadence, hooks=hooks, stopwatch=stopwatch)
