"""One run of a translator: train, score after every epoch, keep the best; and a trained one opened again."""

import dataclasses
import functools
import os
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from bert_jax.parallel_texts import BucketedBatches, EncodedPairs, Pairs, with_vocabulary
from bert_jax.pretraining import identity
from bert_jax.tokenizer import Tokenizer
from bert_jax.tokenizer_files import load_tokenizer
from bert_jax.translation import Translator, initial_params, translation_loss
from bert_jax.translation_config import Translation, TranslationConfig
from bert_jax.translation_weights import unrolled_params
from bert_jax.translator import BatchTranslator
from core_jax import metrics
from core_jax.beam_search import BeamSettings
from core_jax.checkpoints import Checkpoints, restore_params, saved_steps
from core_jax.config import OptimizerConfig
from core_jax.distributed import first_decides
from core_jax.optimizers import averaged_params, make_optimizer, with_average
from core_jax.sharding import by_path, check_mesh, place_like, tree_shardings, with_shardings
from core_jax.stopwatch import Stopwatch
from core_jax.train import Cadence, Hooks, State, abstract_state, compile_step, create_state, fit, make_step
from core_jax.workdir import Recorder, read_config
from experiments.console import StepProgress, StopRequest, say
from experiments.results import count_parameters
from experiments.tuning_history import History

METRIC = "log_likelihood"  # of a target token in nats, without smoothing; the largest is kept
SHOWN = ("loss", "next_accuracy", "useful_tokens_per_second")
SAVE_STEPS = 1000  # between checkpoints at most; else one an epoch


@dataclasses.dataclass
class Run:
    """One run: a configuration, its work folder and what follows from both."""

    config: Translation
    workdir: str
    mesh: Mesh
    stopping: StopRequest
    model: TranslationConfig  # with the sizes of the vocabulary
    tokenizer: Tokenizer
    train: EncodedPairs
    validation: EncodedPairs
    sets: dict[str, Pairs]  # the same as text, and what is to be translated

    def batches(self, pairs: EncodedPairs) -> BucketedBatches:
        """Batches of some pairs."""
        tuning, longest = self.config.tuning, self.config.pairs.sequence_length
        return BucketedBatches(pairs, self.model, longest, tuning.global_batch_size, tuning.seed)

    @functools.cached_property
    def train_batches(self) -> BucketedBatches:
        """Those that are trained on."""
        return self.batches(self.train)

    @functools.cached_property
    def steps(self) -> int:
        """Steps in all."""
        return max(1, round(self.config.tuning.epochs * self.train_batches.epoch_steps))

    @functools.cached_property
    def optimizer(self) -> Any:
        """With its warm-up in steps, and the average of the parameters."""
        config: OptimizerConfig = self.config.optimizer
        warmup = config.warmup_steps or round(self.config.tuning.warmup_fraction * self.steps)
        made = make_optimizer(dataclasses.replace(config, warmup_steps=warmup), self.steps)
        return with_average(made, self.config.ema_decay)

    @functools.cached_property
    def evaluate(self) -> Any:
        """Compiled (params, batch) -> metrics."""
        loss = translation_loss(Translator(self.model), train=False)
        return jax.jit(lambda params, batch: loss(params, batch, jax.random.key(0))[1])

    def averaged(self, state: State) -> PyTree:
        """The parameters that are scored and kept."""
        return averaged_params(state.opt, state.params, self.config.ema_decay)


class EpochScores:
    """Scores a run after its epochs, writes that down and keeps the best parameters."""

    def __init__(self, run: Run, first_step: int):
        """Opens the records of a run that goes on from `first_step`."""
        self.run, self._folder = run, os.path.join(run.workdir, "best")
        self.history = History(run.workdir, METRIC, run.config.tuning.patience)
        self._recorder = Recorder(run.workdir, first_step)
        self._best = Checkpoints(self._folder, keep=1, identity=identity(run.tokenizer), report=say)
        self.is_stuck = self._look()

    def record(self, number: int, values: dict[str, float]) -> None:
        """Writes down what was measured in training."""
        self._recorder.write(number, "train", values)

    def score(self, number: int, state: State) -> None:
        """Scores the validation pairs, unless it was done; says what came out."""
        run = self.run
        if first_decides(lambda: self.history.is_scored(number)):
            return
        params = run.averaged(state)
        with jax.set_mesh(run.mesh):
            found = [run.evaluate(params, batch) for batch in run.batches(run.validation).evaluation(run.mesh)]
        values = metrics.means(jax.device_get(found))
        scores = {METRIC: -values["next_loss"], "loss": values["next_loss"], "accuracy": values["next_accuracy"]}
        if first_decides(lambda: self.history.is_better(scores)):
            if not first_decides(lambda: number in saved_steps(self._folder)):
                self._best.save(number, State(state.step, params, {}, state.key))
            self._best.wait()  # before the score is written: it would be the best, with no parameters of it
        self._recorder.write(number, "validation", scores)
        self.is_stuck = self._look()
        steps = run.train_batches.epoch_steps
        say(
            f"epoch {number / steps:.3g}/{run.steps / steps:.3g}  validation loss {scores['loss']:.4f}  perplexity "
            f"{np.exp(scores['loss']):.2f}  next token accuracy {100 * scores['accuracy']:.1f} %"
        )

    def _look(self):
        history, steps = self.history, self.run.train_batches.epoch_steps
        return bool(history.patience) and first_decides(lambda: history.is_stuck(steps))

    def close(self) -> None:
        """Waits for what is being written."""
        self._best.close()
        self._recorder.close()


def train(run: Run) -> PyTree | None:
    """Trains a run, or goes on with it; gives its best parameters, or None where it was asked to stop."""
    stopwatch = Stopwatch()
    checkpoints, state = starting_state(run)
    scores, steps = EpochScores(run, int(state.step)), run.train_batches.epoch_steps
    if int(state.step) % steps == 0 and int(state.step):
        scores.score(int(state.step), state)  # it was perhaps killed between saving and scoring
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    loss = translation_loss(Translator(run.model), train=True, smoothing=run.config.pairs.label_smoothing)
    step = compile_step(make_step(loss, run.optimizer), shardings)
    batches = run.train_batches.training(run.mesh, int(state.step), run.steps)
    with StepProgress(int(state.step), run.steps) as bar, jax.set_mesh(run.mesh):
        hooks = Hooks(
            record=lambda number, values: (scores.record(number, values), bar.report(number, values, SHOWN))[0],
            evaluate=scores.score,
            save=checkpoints.save,
            advance=bar.advance,
            stopping=lambda: run.stopping() or scores.is_stuck,
        )
        cadence = Cadence(run.config.tuning.log_every, steps, min(steps, SAVE_STEPS))
        state = fit(state, step, batches, last_step=run.steps, cadence=cadence, hooks=hooks, stopwatch=stopwatch)
    checkpoints.close()
    if not run.stopping():
        scores.score(int(state.step), state)
    scores.close()
    return None if run.stopping() else best_params(run.workdir, run.model, run.tokenizer, run.mesh)


def starting_state(run: Run) -> tuple[Checkpoints, State]:
    """The newest checkpoint, or a fresh state; with --init from the parameters of that run."""
    init = initial_params(Translator(run.model))
    check_mesh(run.mesh, jax.eval_shape(init, jax.random.key(0)), run.config.tuning.global_batch_size)
    folder, marks = os.path.join(run.workdir, "checkpoints"), identity(run.tokenizer)
    checkpoints = Checkpoints(folder, keep=1, identity=marks, report=say)
    state = checkpoints.restore_newest(with_shardings(abstract_state(init, run.optimizer), run.mesh))
    if state is None:

        def start(key: Any) -> PyTree:
            return init(key)

        state = create_state(start, run.optimizer, run.mesh, run.config.tuning.seed)
        if run.config.init:
            found = by_path(best_params(run.config.init, run.model, run.tokenizer, run.mesh))
            params = place_like(state.params, found, run.mesh)
            with jax.set_mesh(run.mesh):
                state = dataclasses.replace(state, params=params, opt=run.optimizer.init(params))
        say(f"{run.config.preset}: {count_parameters(state.params):,} parameters, {run.steps:,} steps")
    return checkpoints, state


def best_params(workdir: str, model: TranslationConfig, tokenizer: Tokenizer, mesh: Mesh) -> PyTree:
    """The best parameters of a run, on a mesh."""
    shapes = with_shardings(jax.eval_shape(initial_params(Translator(model)), jax.random.key(0)), mesh)
    return restore_params(os.path.join(workdir, "best"), shapes, identity=identity(tokenizer), report=say)


def batch_translator(
    model: TranslationConfig, params: PyTree, search: BeamSettings, mesh: Mesh, rows: int
) -> BatchTranslator:
    """Beam search with the parameters of a run; its layers are unrolled, since a step of one token is faster so."""
    params = unrolled_params(params) if model.scan_layers else params
    model = dataclasses.replace(model, scan_layers=False)
    params = jax.device_put(params, tree_shardings(params, mesh))
    return BatchTranslator(Translator(model), params, search, mesh, rows=rows)


def open_trained(workdir: str, mesh: Mesh) -> tuple[Translation, TranslationConfig, Tokenizer, PyTree]:
    """A run's configuration, model, vocabulary and best parameters.

    Raises:
      UserError: the folder holds no finished epoch of a translator.
    """
    config, tokenizer = read_config(workdir, Translation), load_tokenizer(os.path.join(workdir, "tokenizer"))
    model = with_vocabulary(config.model, tokenizer)
    return config, model, tokenizer, best_params(workdir, model, tokenizer, mesh)
