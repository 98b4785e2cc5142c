"""Pretrains BERT or ViT:   python -m experiments.pretrain [PRESET] --flag=value

Type the same command again and it goes on where it stopped. `--help` lists every flag.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from bert_jax.config import BertPretraining
from core_jax import distributed
from core_jax.checkpoints import Checkpoints, state_bytes
from core_jax.config import to_json
from core_jax.data import check_batch, choose_workers, training_batches
from core_jax.family import Data, Evaluated, Family
from core_jax.flops import count_flops
from core_jax.hangs import HangWatch, describe_collectives
from core_jax.lora import describe_trained
from core_jax.optimizers import averaged_params, schedule, training_optimizer
from core_jax.peaks import mesh_peak, utilization
from core_jax.run_lock import lock
from core_jax.sharding import check_mesh, parse_mesh, with_shardings
from core_jax.stopwatch import Stopwatch
from core_jax.train import Cadence, Hooks, State, abstract_state, create_state, fit
from core_jax.workdir import Recorder, check_shared, check_space, claim_workdir, filling
from experiments import curve_check, planning, results
from experiments.console import StepProgress, StopRequest, parse_preset, report, run_command, say
from experiments.families import PRESETS, Pretraining, family_of

DESCRIPTION = "Pretrains BERT on text or ViT on images, and goes on where it stopped."


def main(arguments: list[str]) -> int:
    """Trains, scores and reports; returns the exit code."""
    config = parse_preset(arguments, PRESETS, "bert-tiny", DESCRIPTION)
    workdir = config.training.workdir or os.path.join("runs", config.preset)
    if isinstance(config, BertPretraining) and config.check_curve:
        return curve_check.run(workdir)
    return run(config, workdir)


def run(config: Pretraining, workdir: str) -> int:
    """Does what a configuration says, in a work folder; returns the exit code."""
    family = family_of(config)
    if config.training.plan:
        return planning.run(family.adopt(config, say), workdir)
    distributed.initialise(config.training.silence_seconds, report)
    config = family.adopt(config, say)
    distributed.require_same("configuration", to_json(config))
    mesh = parse_mesh(config.training.mesh)
    distributed.first_decides(lambda: check(config, workdir, mesh))
    check_shared(workdir)
    with lock(workdir), StopRequest().listening() as stopping:
        if distributed.first_decides(lambda: results.is_finished(workdir, config.training.steps)):
            results.show(family.wording, workdir)
            say(f"{workdir} is finished: --steps=N with a larger N trains further")
            return 0
        with filling(workdir, config):
            session = open_session(config, workdir, mesh, stopping)
            checkpoints, state = starting_point(session)
        return train(session, checkpoints, state)


def check(config: Pretraining, workdir: str, mesh: Mesh) -> None:
    """Refuses what cannot work, before any data is read or anything compiled; makes nothing but the work folder.

    Raises:
      UserError: with what to type instead.
    """
    training, family = config.training, family_of(config)
    family.check(config, workdir)
    init = family.initial_params(family.model_ahead(config))
    shapes = abstract_state(init, training_optimizer(config.optimizer, training))
    check_mesh(mesh, shapes, training.global_batch_size, training.accumulation_steps)
    claim_workdir(workdir, config)
    # One checkpoint more than are kept exists while the newest is written.
    check_space(workdir, (training.keep_checkpoints + 1) * state_bytes(shapes))


@dataclasses.dataclass(frozen=True)
class Session:
    """What one call of the command works with."""

    config: Pretraining
    family: Family
    workdir: str
    mesh: Mesh
    data: Data
    model: Any
    optimizer: optax.GradientTransformation
    stopping: StopRequest

    @functools.cached_property
    def abstract(self) -> State:
        """The state's shapes, each knowing where it lives."""
        return with_shardings(abstract_state(self.family.initial_params(self.model), self.optimizer), self.mesh)


def open_session(config: Pretraining, workdir: str, mesh: Mesh, stopping: StopRequest) -> Session:
    """Prepares the data and holds it against the mesh and the batch.

    Raises:
      UserError: the data cannot be read, is too small, or gives a model that the mesh does not divide.
    """
    training, family = config.training, family_of(config)
    data = family.open_data(config, workdir, say)
    model, optimizer = family.model_for(config, data), training_optimizer(config.optimizer, training)
    session = Session(config, family, workdir, mesh, data, model, optimizer, stopping)
    check_mesh(mesh, session.abstract, training.global_batch_size, training.accumulation_steps)
    check_batch(data.train, training.global_batch_size, family.name_of_rows(config))
    return session


def starting_point(session: Session) -> tuple[Checkpoints, State]:
    """The newest checkpoint, or a fresh state whose parameters are random or those of --init.

    Raises:
      UserError: the checkpoints there do not fit, or none of them can be read.
    """
    config, family, mesh = session.config, session.family, session.mesh
    checkpoints = Checkpoints(
        os.path.join(session.workdir, "checkpoints"),
        keep=config.training.keep_checkpoints,
        identity=family.identity(session.data),
        report=say,
    )
    state = checkpoints.restore_newest(session.abstract)
    if state is None:
        state = create_state(family.initial_params(session.model), session.optimizer, mesh, config.training.seed)
        if config.init:
            params = family.load_init(config, session.model, session.data, state.params, mesh, say)
            state = dataclasses.replace(state, params=params)
            if config.training.ema_decay:  # the average begins at these parameters too
                places = jax.tree.map(lambda leaf: leaf.sharding, session.abstract.opt)
                state = dataclasses.replace(
                    state, opt=jax.jit(session.optimizer.init, out_shardings=places)(state.params)
                )
    return checkpoints, state


def train(session: Session, checkpoints: Checkpoints, state: State) -> int:
    """Trains to the last step and scores the result; returns the exit code."""
    stopwatch, family, config = Stopwatch(), session.family, session.config
    described = family.describe(session.data) + describe_trained(state.params, config.optimizer)
    say(results.describe_start(config.preset, described, state.params, int(state.step), session.mesh))
    if not int(state.step):
        for finding in family.findings(config, session.data, session.workdir):
            say(f"note: {finding}")
    recorder = Recorder(session.workdir, int(state.step))
    evaluation = family.make_evaluation(config, session.model, session.data, session.mesh)

    def evaluate(number: int, state: State) -> Evaluated | None:
        params = averaged_params(state.opt, state.params, config.training.ema_decay)
        evaluated = evaluation(params, session.stopping)
        if evaluated is not None:
            recorder.write(number, "held_out", evaluated.scores)
        return evaluated

    state = loop(session, state, stopwatch, recorder, checkpoints, evaluate)
    checkpoints.close()
    with stopwatch.span("evaluation"):
        evaluated = None if session.stopping() else evaluate(int(state.step), state)
    recorder.close()
    if evaluated is None:
        say(f"stopped after step {int(state.step)}; all is saved: type the same command again to go on")
        return session.stopping.exit_code
    params = averaged_params(state.opt, state.params, config.training.ema_decay)
    family.draw(config, session.workdir, session.data, evaluated, params)
    found = evaluated.scores | family.wording.chances | {"steps": int(state.step), "preset": config.preset}
    found |= {"parameters": results.count_parameters(state.params)} | family.summary(session.data)
    results.save(session.workdir, found, stopwatch)
    results.show(family.wording, session.workdir)
    return 0


def loop(
    session: Session,
    state: State,
    stopwatch: Stopwatch,
    recorder: Recorder,
    checkpoints: Checkpoints,
    evaluate: Callable[[int, State], object],
) -> State:
    """Compiles the step and trains to the last."""
    config, family, first_step = session.config, session.family, int(state.step)
    training = config.training
    step = family.training_step(config, session.model, session.optimizer, session.abstract)
    batches = training_batches(
        session.data.train,
        session.mesh,
        batch_size=training.global_batch_size,
        seed=training.seed,
        first_step=first_step,
        last_step=training.steps,
        workers=choose_workers(training.data_workers),
    )
    learning_rate = schedule(config.optimizer, training.steps)
    watch = HangWatch(float(training.hang_limit), stopwatch, first_step, describe_collectives(session.mesh))
    with StepProgress(first_step, training.steps) as bar, watch, jax.set_mesh(session.mesh):
        peak = mesh_peak(session.mesh)
        with stopwatch.span("compile"):
            step_flops = count_flops(step, session.abstract, family.batch_shapes(config)) if peak else 0

        def record(number: int, values: dict[str, float]) -> None:
            values = values | {"learning_rate": float(np.asarray(learning_rate(number - 1)))}
            values |= (utilization(values, step_flops, peak) if peak else {}) | stopwatch.shares()
            recorder.write(number, "train", values)
            bar.report(number, values, family.wording.shown)

        def advance(number: int) -> None:
            bar.advance(number)
            watch.advance(number)

        hooks = Hooks(record, evaluate, checkpoints.save, advance, session.stopping)
        cadence = Cadence(training.log_every, training.evaluate_every, training.checkpoint_every)
        return fit(state, step, batches, last_step=training.steps, cadence=cadence, hooks=hooks, stopwatch=stopwatch)


if __name__ == "__main__":
    run_command(main)
