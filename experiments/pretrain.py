"""Pretrains BERT:   python -m experiments.pretrain [PRESET] --flag=value

Type the same command again and it goes on where it stopped. `--help` lists every flag.
"""

import dataclasses
import functools
import os
from collections.abc import Callable

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from bert_jax.config import PRESETS, BertPretraining
from bert_jax.corpus_report import corpus_figures
from bert_jax.diagnosis import corpus_findings, training_findings
from bert_jax.model import BertForPretraining
from bert_jax.pretraining import (
    Text,
    batch_shapes,
    check_text,
    corpus_folder,
    given_tokenizer,
    identity,
    make_evaluation,
    prepare_text,
    resolve_model,
)
from bert_jax.starting_weights import adopt_architecture, check_init, load_init
from bert_jax.tasks import initial_params, training_step
from core_jax import distributed
from core_jax.checkpoints import Checkpoints, state_bytes
from core_jax.config import to_json
from core_jax.data import check_batch, choose_workers, training_batches
from core_jax.flops import count_flops
from core_jax.optimizers import make_optimizer, schedule
from core_jax.peaks import mesh_peak, utilization
from core_jax.sharding import check_mesh, parse_mesh, with_shardings
from core_jax.stopwatch import Stopwatch
from core_jax.train import Cadence, Hooks, State, abstract_state, create_state, fit
from core_jax.workdir import Recorder, check_shared, check_space, claim_workdir, filling, lock
from experiments import curve_check, planning, results
from experiments.console import StepProgress, StopRequest, parse_preset, report, run_command, say

SHOWN = ("loss", "mlm_accuracy", "nsp_accuracy", "useful_tokens_per_second", "mfu")


def main(arguments: list[str]) -> int:
    """Trains, scores and reports; returns the exit code."""
    config = parse_preset(arguments, PRESETS, "bert-tiny", "Pretrains BERT on text, and goes on where it stopped.")
    workdir = config.training.workdir or os.path.join("runs", config.preset)
    if config.check_curve:
        return curve_check.run(workdir)
    if config.training.plan:
        return planning.run(adopt_architecture(config, say), workdir)
    distributed.initialise(config.training.silence_seconds, report)
    config = adopt_architecture(config, say)
    distributed.require_same("configuration", to_json(config))
    mesh = parse_mesh(config.training.mesh)
    distributed.first_decides(lambda: check(config, workdir, mesh))
    check_shared(workdir)
    with lock(workdir), StopRequest().listening() as stopping:
        if distributed.first_decides(lambda: results.is_finished(workdir, config.training.steps)):
            results.show(workdir)
            say(f"{workdir} is finished: --steps=N with a larger N trains further")
            return 0
        with filling(workdir, config):
            session = open_session(config, workdir, mesh, stopping)
            checkpoints, state = starting_point(session)
        return train(session, checkpoints, state)


def check(config: BertPretraining, workdir: str, mesh: Mesh) -> None:
    """Refuses what cannot work, before any text is read or anything compiled; makes nothing but the work folder.

    Raises:
      UserError: with what to type instead.
    """
    training = config.training
    check_init(config.init)
    check_text(config, workdir)
    tokenizer = given_tokenizer(config)
    model = resolve_model(config.model, tokenizer) if tokenizer else BertForPretraining(config.model)
    shapes = abstract_state(initial_params(model), make_optimizer(config.optimizer, 1))
    check_mesh(mesh, shapes, training.global_batch_size, training.accumulation_steps)
    claim_workdir(workdir, config)
    # One checkpoint more than are kept exists while the newest is written.
    check_space(workdir, (training.keep_checkpoints + 1) * state_bytes(shapes))


@dataclasses.dataclass(frozen=True)
class Session:
    """What one call of the command works with."""

    config: BertPretraining
    workdir: str
    mesh: Mesh
    text: Text
    model: BertForPretraining
    optimizer: optax.GradientTransformation
    stopping: StopRequest

    @functools.cached_property
    def abstract(self) -> State:
        """The state's shapes, each knowing where it lives."""
        return with_shardings(abstract_state(initial_params(self.model), self.optimizer), self.mesh)


def open_session(config: BertPretraining, workdir: str, mesh: Mesh, stopping: StopRequest) -> Session:
    """Prepares the text and holds it against the mesh and the batch.

    Raises:
      UserError: the text cannot be read, is too small, or gives a vocabulary that the mesh does not divide.
    """
    training, text = config.training, prepare_text(config, workdir, say)
    model = resolve_model(config.model, text.tokenizer)
    session = Session(config, workdir, mesh, text, model, make_optimizer(config.optimizer, training.steps), stopping)
    check_mesh(mesh, session.abstract, training.global_batch_size, training.accumulation_steps)
    check_batch(text.train, training.global_batch_size, "packed rows" if config.text.packing else "examples")
    return session


def starting_point(session: Session) -> tuple[Checkpoints, State]:
    """The newest checkpoint, or a fresh state whose parameters are random or those of --init.

    Raises:
      UserError: the checkpoints there do not fit, or none of them can be read.
    """
    config = session.config
    checkpoints = Checkpoints(
        os.path.join(session.workdir, "checkpoints"),
        keep=config.training.keep_checkpoints,
        identity=identity(session.text.tokenizer),
        report=say,
    )
    state = checkpoints.restore_newest(session.abstract)
    if state is None:
        state = create_state(initial_params(session.model), session.optimizer, session.mesh, config.training.seed)
        if config.init:
            given = (session.model, session.text.tokenizer, state.params, session.mesh)
            state = dataclasses.replace(state, params=load_init(config.init, *given, say))
    return checkpoints, state


def warn(session: Session) -> None:
    """Says what in the text or the settings may keep the loss high."""
    figures = corpus_figures(corpus_folder(session.config, session.workdir), session.text.tokenizer)
    for finding in (*corpus_findings(figures), *training_findings(session.config, figures)):
        say(f"note: {finding}")


def train(session: Session, checkpoints: Checkpoints, state: State) -> int:
    """Trains to the last step and scores the result; returns the exit code."""
    stopwatch = Stopwatch()
    say(results.describe_start(session.config, session.text, state.params, int(state.step), session.mesh))
    if not int(state.step):
        warn(session)
    recorder = Recorder(session.workdir, int(state.step))
    evaluation = make_evaluation(session.model, session.text, session.config, session.mesh)

    def evaluate(number: int, state: State) -> dict[str, float] | None:
        scores = evaluation(state.params, session.stopping)
        if scores is not None:
            recorder.write(number, "held_out", scores)
        return scores

    state = loop(session, state, stopwatch, recorder, checkpoints, evaluate)
    checkpoints.close()
    with stopwatch.span("evaluation"):
        scores = None if session.stopping() else evaluate(int(state.step), state)
    recorder.close()
    if scores is None:
        say(f"stopped after step {int(state.step)}; all is saved: type the same command again to go on")
        return session.stopping.exit_code
    results.save(session.workdir, session.config, session.text, state.params, int(state.step), scores, stopwatch)
    results.show(session.workdir)
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
    training, first_step = session.config.training, int(state.step)
    step = training_step(session.model, session.optimizer, session.abstract, training.accumulation_steps)
    batches = training_batches(
        session.text.train,
        session.mesh,
        batch_size=training.global_batch_size,
        seed=training.seed,
        first_step=first_step,
        last_step=training.steps,
        workers=choose_workers(training.data_workers),
    )
    learning_rate = schedule(session.config.optimizer, training.steps)
    with StepProgress(first_step, training.steps) as bar, jax.set_mesh(session.mesh):
        peak = mesh_peak(session.mesh)
        with stopwatch.span("compile"):
            step_flops = count_flops(step, session.abstract, batch_shapes(session.config)) if peak else 0

        def record(number: int, values: dict[str, float]) -> None:
            values = values | {"learning_rate": float(np.asarray(learning_rate(number - 1)))}
            values |= (utilization(values, step_flops, peak) if peak else {}) | stopwatch.shares()
            recorder.write(number, "train", values)
            bar.report(number, values, SHOWN)

        hooks = Hooks(record, evaluate, checkpoints.save, bar.advance, session.stopping)
        cadence = Cadence(training.log_every, training.evaluate_every, training.checkpoint_every)
        return fit(state, step, batches, last_step=training.steps, cadence=cadence, hooks=hooks, stopwatch=stopwatch)


if __name__ == "__main__":
    run_command(main)
