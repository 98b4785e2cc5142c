"""One run of fine-tuning: train, score after every epoch, keep the best."""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from bert_jax import finetuning
from bert_jax.answers import Answers, collect_answers, score_answers
from bert_jax.finetuning_config import BertFinetuning
from bert_jax.labelled_rows import labelled_batches
from bert_jax.labelled_texts import LabelledExamples
from bert_jax.labelling import ModelForLabels, initial_label_params, make_answers
from bert_jax.missing_answers import some_are_missing
from bert_jax.pretraining import identity
from bert_jax.tuning_steps import all_steps, epoch_steps, with_warmup
from core_jax.checkpoints import Checkpoints
from core_jax.config import OptimizerConfig
from core_jax.lora import describe_trained
from core_jax.optimizers import make_optimizer
from core_jax.sharding import with_shardings
from core_jax.stopwatch import Stopwatch
from core_jax.train import Cadence, Hooks, State, abstract_state, create_state, fit
from experiments import tuning_results
from experiments.console import StepProgress, format_value, say
from experiments.epoch_scores import EpochRecords, both
from experiments.results import count_parameters
from experiments.tuning_history import History
from experiments.tuning_material import Material

SHOWN = ("loss", "accuracy", "useful_tokens_per_second")
SAVE_STEPS = 1000  # between checkpoints at most; else one an epoch


@dataclasses.dataclass
class Run:
    """One run: a configuration, its work folder and what follows from both."""

    config: BertFinetuning
    workdir: str
    material: Material

    @functools.cached_property
    def model(self) -> ModelForLabels:
        """Of the starting point's size."""
        settings = {name: getattr(self.config, name) for name in ("dropout", "attention_dropout", "dtype")}
        config = dataclasses.replace(self.material.start.config, **settings)
        return finetuning.label_model(config, self.config.labels, self.material.classes)

    @functools.cached_property
    def epoch_steps(self) -> int:
        """Steps of an epoch."""
        return epoch_steps(self.config.tuning, len(self.material.train.texts))

    @functools.cached_property
    def steps(self) -> int:
        """Steps in all."""
        return all_steps(self.config.tuning, len(self.material.train.texts))

    @functools.cached_property
    def optimizer(self) -> OptimizerConfig:
        """With its warm-up in steps."""
        return with_warmup(self.config, self.steps)

    @functools.cached_property
    def metric(self) -> str:
        """The score that chooses the best epoch."""
        return finetuning.metric_of(self.config.labels)

    @functools.cached_property
    def may_be_empty(self) -> bool | None:
        """Of a span task, whether the model learns to give no answer."""
        return some_are_missing(self.material.train, self.config.labels.label_column)

    @functools.cached_property
    def answer(self) -> Callable[..., Any]:
        """Compiled once for all runs of a command."""
        model: Any = self.model
        return _answers(model)

    def ask(self, params: PyTree, examples: LabelledExamples) -> Answers | None:
        """What a model with these parameters says of examples; None where the run is asked to stop."""
        return collect_answers(
            self.answer,
            params,
            examples,
            self.material.mesh,
            batch_size=self.config.tuning.global_batch_size * 2,
            sequence_length=self.config.labels.sequence_length,
            context_column=self.config.labels.text_column,
            stopping=self.material.stopping,
        )

    def score(self, answers: Answers, examples: LabelledExamples) -> dict[str, float]:
        """Scores of answers to examples."""
        columns = finetuning.columns_of(self.config.labels)
        return score_answers(answers, examples, columns, self.material.classes, may_be_empty=self.may_be_empty)


@functools.lru_cache(maxsize=8)
def _answers(model: Any) -> Any:
    return make_answers(model)


class EpochScores(EpochRecords):
    """Scores a run after its epochs, writes that down and keeps the best parameters."""

    def __init__(self, run: Run, first_step: int, name: str = ""):
        """Opens the records of a run that goes on from `first_step`; its `name` is said before what came out."""
        self.run, self._name = run, name
        history = History(run.workdir, run.metric, run.config.tuning.patience)
        super().__init__(history, run.epoch_steps, identity(run.material.start.tokenizer), first_step)

    def score(self, number: int, state: State) -> None:
        """Scores the validation examples, unless it was done; says what came out."""
        run, examples = self.run, self.run.material.validation
        if self.is_scored(number):
            return
        answers = run.ask(state.params, examples)
        if answers is None:
            return
        scores = run.score(answers, examples)
        self.keep(number, scores, state, state.params)
        say(self._line(number, scores))

    def _line(self, number, scores):
        run = self.run
        lines = [
            line["loss"] for line in self.history.lines("train") if number - run.epoch_steps < line["step"] <= number
        ]
        shown = {"training loss": float(np.mean(lines))} if lines else {}
        shown |= {"validation loss": scores["loss"]} | {name: value for name, value in scores.items() if name != "loss"}
        text = "  ".join(f"{name} {format_value(name, value)}" for name, value in shown.items())
        return f"{self._name}epoch {number / run.epoch_steps:g}/{run.steps / run.epoch_steps:g}  {text}"


def train(run: Run) -> dict[str, float] | None:
    """Trains one run, or goes on with it; gives its best scores, or None where it was asked to stop."""
    stopping, stopwatch = run.material.stopping, Stopwatch()
    checkpoints, state = starting_state(run)
    scores = EpochScores(run, int(state.step))
    if int(state.step) % run.epoch_steps == 0 and int(state.step):
        scores.score(int(state.step), state)  # it was perhaps killed between saving and scoring
    state = _loop(run, state, stopwatch, checkpoints, scores)
    checkpoints.close()
    if not stopping():
        with stopwatch.span("evaluation"):
            scores.score(int(state.step), state)
    scores.close()
    return None if stopping() else tuning_results.finish(run, int(state.step), scores.history, stopwatch)


def starting_state(run: Run) -> tuple[Checkpoints, State]:
    """The newest checkpoint, or a state with a fresh head on the pretrained encoder."""
    material, transformation = run.material, make_optimizer(run.optimizer, run.steps)
    finetuning.label_shapes(run.model, material.mesh)
    init = initial_label_params(run.model)
    marks = identity(material.start.tokenizer)
    checkpoints = Checkpoints(os.path.join(run.workdir, "checkpoints"), keep=1, identity=marks, report=say)
    state = checkpoints.restore_newest(with_shardings(abstract_state(init, transformation), material.mesh))
    if state is None:
        state = create_state(init, transformation, material.mesh, run.config.tuning.seed)
        params, fresh = finetuning.grafted(state.params, material.start.params, material.mesh)
        state = dataclasses.replace(state, params=params)
        say(f"{run.workdir}: {_describe(run, params)}; fresh: {', '.join(fresh)}")
    if jax.process_index() == 0:
        parts = run.model, material.start.tokenizer, material.classes
        finetuning.save_label_model(run.workdir, *parts, run.may_be_empty)
    return checkpoints, state


def _describe(run, params):
    material, config = run.material, run.config
    cut = material.train.cut
    return (
        f"{config.labels.task} from {config.init}, {count_parameters(params):,} parameters"
        f"{describe_trained(params, run.optimizer)}; "
        f"{len(material.train.records):,} examples to train on, {len(material.validation.records):,} to validate on"
        + (f" ({cut:,} are longer than --sequence_length={config.labels.sequence_length} and cut)" if cut else "")
        + f"; {run.steps:,} steps"
    )


def _loop(run: Run, state: State, stopwatch: Stopwatch, checkpoints: Checkpoints, scores: EpochScores) -> State:
    config, mesh = run.config, run.material.mesh
    model: Any = run.model
    step = finetuning.tuning_step(model, run.optimizer, run.steps, config.labels.label_smoothing, mesh)
    batches = labelled_batches(
        run.material.train.texts,
        mesh,
        batch_size=config.tuning.global_batch_size,
        sequence_length=config.labels.sequence_length,
        seed=config.tuning.seed,
        first_step=int(state.step),
        last_step=run.steps,
    )
    with StepProgress(int(state.step), run.steps) as bar, jax.set_mesh(mesh):
        hooks = Hooks(
            record=both(scores.record, lambda number, values: bar.report(number, values, SHOWN)),
            evaluate=scores.score,
            save=checkpoints.save,
            advance=bar.advance,
            stopping=lambda: run.material.stopping() or scores.is_stuck,
        )
        cadence = cadence_of(run)
        return fit(state, step, batches, last_step=run.steps, cadence=cadence, hooks=hooks, stopwatch=stopwatch)


def cadence_of(run: Run) -> Cadence:
    """When it logs, scores and saves: all of it when an epoch ends."""
    return Cadence(log_steps(run), run.epoch_steps, min(run.epoch_steps, SAVE_STEPS))


def log_steps(run: Run) -> int:
    """Steps between lines: at most --log_every, and such that every epoch ends with one."""
    wanted, steps = run.config.tuning.log_every, run.epoch_steps
    largest = max(size for size in range(1, min(wanted, steps) + 1) if steps % size == 0)
    return largest if 4 * largest >= min(wanted, steps) else steps
