"""One run of a translator: train, score after every epoch, keep the best."""

import dataclasses
import functools
import os
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from bert_jax import bert_encoders
from bert_jax.parallel_texts import BucketedBatches, EncodedPairs, Pairs
from bert_jax.pretraining import identity
from bert_jax.tokenizer import Tokenizer
from bert_jax.translation import Translator, batch_shapes, initial_params, step_flops, translation_loss
from bert_jax.translation_config import Translation, TranslationConfig
from core_jax import metrics
from core_jax.checkpoints import Checkpoints
from core_jax.config import OptimizerConfig
from core_jax.optimizers import averaged_params, make_optimizer, with_average
from core_jax.plan import describe_plan, make_plan
from core_jax.sharding import batch_sharding, by_path, check_mesh, place_like, with_shardings
from core_jax.stopwatch import Stopwatch
from core_jax.train import Cadence, Hooks, State, abstract_state, compile_step, create_state, fit, make_step
from experiments import planning
from experiments.console import StepProgress, StopRequest, print_table, say
from experiments.epoch_scores import EpochRecords, both
from experiments.results import count_parameters
from experiments.trained_translators import open_params
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
    stopwatch: Stopwatch = dataclasses.field(default_factory=Stopwatch)

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


class EpochScores(EpochRecords):
    """Scores a run after its epochs, writes that down and keeps the best parameters."""

    def __init__(self, run: Run, first_step: int):
        """Opens the records of a run that goes on from `first_step`."""
        self.run = run
        history = History(run.workdir, METRIC, run.config.tuning.patience)
        super().__init__(history, run.train_batches.epoch_steps, identity(run.tokenizer), first_step)

    def score(self, number: int, state: State) -> None:
        """Scores the validation pairs, unless it was done; says what came out."""
        run = self.run
        if self.is_scored(number):
            return
        params = run.averaged(state)
        with jax.set_mesh(run.mesh):
            found = [run.evaluate(params, batch) for batch in run.batches(run.validation).evaluation(run.mesh)]
        values = metrics.means(jax.device_get(found))
        scores = {METRIC: -values["next_loss"], "loss": values["next_loss"], "accuracy": values["next_accuracy"]}
        self.keep(number, scores, state, params)
        steps = run.train_batches.epoch_steps
        say(
            f"epoch {number / steps:.3g}/{run.steps / steps:.3g}  validation loss {scores['loss']:.4f}  perplexity "
            f"{np.exp(scores['loss']):.2f}  next token accuracy {100 * scores['accuracy']:.1f} %"
        )


def train(run: Run) -> PyTree | None:
    """Trains a run, or goes on with it; gives its best parameters, or None where it was asked to stop."""
    checkpoints, state = starting_state(run)
    scores, steps = EpochScores(run, int(state.step)), run.train_batches.epoch_steps
    if int(state.step) % steps == 0 and int(state.step):
        scores.score(int(state.step), state)  # it was perhaps killed between saving and scoring
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = training_step(run.config, run.model, run.optimizer, shardings)
    batches = run.train_batches.training(run.mesh, int(state.step), run.steps)
    with StepProgress(int(state.step), run.steps) as bar, jax.set_mesh(run.mesh):
        hooks = Hooks(
            record=both(scores.record, lambda number, values: bar.report(number, values, SHOWN)),
            evaluate=scores.score,
            save=checkpoints.save,
            advance=bar.advance,
            stopping=lambda: run.stopping() or scores.is_stuck,
        )
        cadence = Cadence(run.config.tuning.log_every, steps, min(steps, SAVE_STEPS))
        state = fit(state, step, batches, last_step=run.steps, cadence=cadence, hooks=hooks, stopwatch=run.stopwatch)
    checkpoints.close()
    if not run.stopping():
        scores.score(int(state.step), state)
    scores.close()
    return None if run.stopping() else open_params(run.workdir, run.model, run.tokenizer, run.mesh)


def training_step(config: Translation, model: TranslationConfig, optimizer: Any, shardings: State) -> Any:
    """The jitted step.

    Args:
      config: of the run.
      model: with the sizes of the vocabulary.
      optimizer: of the run.
      shardings: of the state.
    """
    loss = translation_loss(Translator(model), train=True, smoothing=config.pairs.label_smoothing)
    return compile_step(make_step(loss, optimizer), shardings)


def plan(config: Translation, workdir: str) -> int:
    """Compiles the step for the slice that --plan names, with rows of the longest sentences; returns the exit code.

    The vocabulary is taken to be as large as asked for: there is none yet.

    Raises:
      UserError: no such slice, a mesh that does not divide, or no TPU compiler.
    """
    planner = planning.planner_for(config.plan, config.tuning.mesh)
    mesh, rows, longest = planner.mesh, config.tuning.global_batch_size, config.pairs.sequence_length
    optimizer = with_average(make_optimizer(config.optimizer, 1), config.ema_decay)
    state = abstract_state(initial_params(Translator(config.model)), optimizer)
    check_mesh(mesh, state, rows)
    state, place = with_shardings(state, mesh), batch_sharding(mesh)
    shapes = batch_shapes(rows, longest)
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes)
    step = training_step(config, config.model, optimizer, jax.tree.map(lambda leaf: leaf.sharding, state))
    flops = float(step_flops(config.model, rows, longest))
    found = make_plan(step, (state, batch), flops, mesh, planner.topology)
    title = f"{config.preset}, {rows:,} pairs of {longest} + {longest} tokens, on {found.topology}"
    print_table(title, ("a step", "planned"), describe_plan(found, 2 * rows * longest, 0))
    return planning.keep(found, workdir, {})


def starting_state(run: Run) -> tuple[Checkpoints, State]:
    """The newest checkpoint, or a fresh state; with --init or --init_encoder from what is there."""
    init = initial_params(Translator(run.model))
    check_mesh(run.mesh, jax.eval_shape(init, jax.random.key(0)), run.config.tuning.global_batch_size)
    folder, marks = os.path.join(run.workdir, "checkpoints"), identity(run.tokenizer)
    checkpoints = Checkpoints(folder, keep=1, identity=marks, report=say)
    state = checkpoints.restore_newest(with_shardings(abstract_state(init, run.optimizer), run.mesh))
    if state is None:
        state = create_state(init, run.optimizer, run.mesh, run.config.tuning.seed)
        found = starting_values(run)
        if found:
            params = place_like(state.params, found, run.mesh)
            with jax.set_mesh(run.mesh):
                state = dataclasses.replace(state, params=params, opt=run.optimizer.init(params))
        say(f"{run.config.preset}: {count_parameters(state.params):,} parameters, {run.steps:,} steps")
    return checkpoints, state


def starting_values(run: Run) -> dict[str, Any]:
    """The parameters that are there already, by path: all with --init, those of an encoder with --init_encoder."""
    config = run.config
    if config.init:
        return by_path(open_params(config.init, run.model, run.tokenizer, run.mesh))
    return bert_encoders.encoder_params(config.init_encoder, run.model, run.mesh, say) if config.init_encoder else {}
