"""One run of fine-tuning: train, score after every epoch, keep the best, report."""

import dataclasses
import functools
import json
import math
import os
import shlex
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from bert_jax import finetuning
from bert_jax.answers import METRICS, Answers, baseline, collect_answers, predictions, score_answers
from bert_jax.finetuning_config import BertFinetuning
from bert_jax.known_tasks import KNOWN_TASKS
from bert_jax.labelled_rows import labelled_batches
from bert_jax.labelled_texts import LabelledExamples
from bert_jax.labelling import initial_label_params, make_answers
from bert_jax.model import BertForLabels
from bert_jax.pretraining import identity
from bert_jax.scores import per_class_scores
from bert_jax.starting_points import StartingPoint
from core_jax.checkpoints import Checkpoints, saved_steps
from core_jax.config import OptimizerConfig
from core_jax.optimizers import make_optimizer
from core_jax.pictures import confusion_matrix_picture, curves_picture
from core_jax.sharding import with_shardings
from core_jax.stopwatch import Stopwatch
from core_jax.train import Cadence, Hooks, State, abstract_state, create_state, fit
from core_jax.workdir import Recorder, write_atomically
from experiments.console import StepProgress, StopRequest, format_value, print_table, say
from experiments.results import LIBRARIES, count_parameters, peak_memory_bytes

SHOWN = ("loss", "accuracy", "useful_tokens_per_second")
SAVE_STEPS = 1000  # between checkpoints at most; else one an epoch
FEW_CLASSES = 20  # up to so many are shown one by one


@dataclasses.dataclass(frozen=True)
class Material:
    """What all runs of one command share."""

    start: StartingPoint
    classes: list[str]
    train: LabelledExamples
    validation: LabelledExamples
    mesh: Mesh
    stopping: StopRequest


@dataclasses.dataclass
class Run:
    """One run: a configuration, its work folder and what follows from both."""

    config: BertFinetuning
    workdir: str
    material: Material

    @functools.cached_property
    def model(self) -> BertForLabels:
        """Of the starting point's size."""
        settings = {name: getattr(self.config, name) for name in ("dropout", "attention_dropout", "dtype")}
        config = dataclasses.replace(self.material.start.config, **settings)
        return finetuning.label_model(config, self.config.labels, self.material.classes)

    @functools.cached_property
    def epoch_steps(self) -> int:
        """Steps of an epoch."""
        return max(1, round(len(self.material.train.texts) / self.config.tuning.global_batch_size))

    @functools.cached_property
    def steps(self) -> int:
        """Steps in all."""
        return max(1, round(self.config.tuning.epochs * self.epoch_steps))

    @functools.cached_property
    def optimizer(self) -> OptimizerConfig:
        """With its warm-up in steps."""
        warmup = self.config.optimizer.warmup_steps or round(self.config.tuning.warmup_fraction * self.steps)
        return dataclasses.replace(self.config.optimizer, warmup_steps=warmup)

    @functools.cached_property
    def metric(self) -> str:
        """The score that chooses the best epoch."""
        known = KNOWN_TASKS.get(self.config.labels.task)
        return known.metric if known else METRICS[self.model.head]

    @functools.cached_property
    def answer(self) -> Callable[..., Any]:
        """Compiled once."""
        return _answers(self.model)

    def ask(self, params: Any) -> Answers | None:
        """What a model with these parameters says of the validation examples."""
        return collect_answers(
            self.answer,
            params,
            self.material.validation,
            self.material.mesh,
            batch_size=self.config.tuning.global_batch_size * 2,
            sequence_length=self.config.labels.sequence_length,
            context_column=self.config.labels.text_column,
            stopping=self.material.stopping,
        )

    def score(self, answers: Answers) -> dict[str, float]:
        """Scores of answers to the validation examples."""
        labels, classes = self.config.labels, self.material.classes
        columns = finetuning.columns_of(labels)
        return score_answers(answers, self.material.validation, self.model.head, columns, classes)


@functools.lru_cache(maxsize=8)
def _answers(model):
    return make_answers(model)


@dataclasses.dataclass
class History:
    """Scores after each epoch, as metrics.jsonl holds them."""

    workdir: str
    metric: str
    patience: int

    def lines(self, split: str) -> list[dict]:
        """The lines of a split, oldest first."""
        path = epath.Path(self.workdir) / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if line["split"] == split]

    def best(self) -> dict | None:
        """The line of the best epoch, the first of equal ones."""
        return max(self.lines("validation"), key=lambda line: line[self.metric], default=None)

    def is_stuck(self, epoch_steps: int) -> bool:
        """Whether so many epochs as `patience` says brought nothing better."""
        lines, best = self.lines("validation"), self.best()
        return bool(self.patience and best and lines[-1]["step"] - best["step"] >= self.patience * epoch_steps)


def train(run: Run) -> dict[str, float] | None:
    """Trains one run, or goes on with it; gives its best scores, or None where it was asked to stop."""
    material, config, stopwatch = run.material, run.config, Stopwatch()
    transformation = make_optimizer(run.optimizer, run.steps)
    init = initial_label_params(run.model)
    marks = identity(material.start.tokenizer)
    checkpoints = Checkpoints(os.path.join(run.workdir, "checkpoints"), keep=1, identity=marks, report=say)
    best = Checkpoints(os.path.join(run.workdir, "best"), keep=1, identity=marks, report=say)
    state = checkpoints.restore_newest(with_shardings(abstract_state(init, transformation), material.mesh))
    if state is None:
        state = create_state(init, transformation, material.mesh, config.tuning.seed)
        params, fresh = finetuning.grafted(state.params, material.start.params, material.mesh)
        state = dataclasses.replace(state, params=params)
        say(f"{run.workdir}: {_describe(run, params)}; fresh: {', '.join(fresh)}")
    if jax.process_index() == 0:
        parts = (config.labels, run.model, material.start.tokenizer, material.classes)
        finetuning.LabelModel(*parts, None).save_parts(run.workdir)
    recorder = Recorder(run.workdir, int(state.step))
    history = History(run.workdir, run.metric, config.tuning.patience)
    state = _loop(run, state, stopwatch, recorder, history, checkpoints, best)
    checkpoints.close()
    if not material.stopping() and not _is_scored(history, int(state.step)):
        with stopwatch.span("evaluation"):
            _score(run, int(state.step), state, recorder, history, best)
    best.close()
    recorder.close()
    return None if material.stopping() else _finish(run, state, history, stopwatch)


def _describe(run, params):
    material, config = run.material, run.config
    cut = material.train.cut
    return (
        f"{config.labels.task} from {config.init}, {count_parameters(params):,} parameters; "
        f"{len(material.train.records):,} examples to train on, {len(material.validation.records):,} to validate on"
        + (f" ({cut:,} are longer than --sequence_length={config.labels.sequence_length} and cut)" if cut else "")
        + f"; {run.steps:,} steps"
    )


def _loop(run, state, stopwatch, recorder, history, checkpoints, best) -> State:
    config, mesh, first_step = run.config, run.material.mesh, int(state.step)
    if first_step and first_step % run.epoch_steps == 0 and not _is_scored(history, first_step):
        _score(run, first_step, state, recorder, history, best)  # it was killed between saving and scoring
    step = finetuning.tuning_step(run.model, run.optimizer, run.steps, config.labels.label_smoothing, mesh)
    batches = labelled_batches(
        run.material.train.texts,
        mesh,
        batch_size=config.tuning.global_batch_size,
        sequence_length=config.labels.sequence_length,
        seed=config.tuning.seed,
        first_step=first_step,
        last_step=run.steps,
    )
    with StepProgress(first_step, run.steps) as bar, jax.set_mesh(mesh):

        def record(number: int, values: dict[str, float]) -> None:
            recorder.write(number, "train", values)
            bar.report(number, values, SHOWN)

        def evaluate(number: int, state: State) -> None:
            _score(run, number, state, recorder, history, best)

        def stopping() -> bool:
            return run.material.stopping() or history.is_stuck(run.epoch_steps)

        hooks = Hooks(record, evaluate, checkpoints.save, bar.advance, stopping)
        cadence = Cadence(log_steps(run), run.epoch_steps, min(run.epoch_steps, SAVE_STEPS))
        return fit(state, step, batches, last_step=run.steps, cadence=cadence, hooks=hooks, stopwatch=stopwatch)


def log_steps(run: Run) -> int:
    """Steps between lines: at most --log_every, and such that every epoch ends with one."""
    wanted, steps = run.config.tuning.log_every, run.epoch_steps
    largest = max(size for size in range(1, min(wanted, steps) + 1) if steps % size == 0)
    return largest if 4 * largest >= min(wanted, steps) else steps


def _is_scored(history, step):
    return any(line["step"] == step for line in history.lines("validation"))


def _score(run, number, state, recorder, history, best) -> None:
    """Scores an epoch, keeps it if it is the best, and says so."""
    answers = run.ask(state.params)
    if answers is None:
        return
    scores, before = run.score(answers), history.best()
    if before is None or scores[run.metric] > before[run.metric]:
        if number not in saved_steps(os.path.join(run.workdir, "best")):
            best.save(number, State(state.step, state.params, {}, state.key))
        best.wait()  # before the score is written: it would be the best, with no parameters of it
    recorder.write(number, "validation", scores)
    lines = [line["loss"] for line in history.lines("train") if number - run.epoch_steps < line["step"] <= number]
    shown = {"training loss": float(np.mean(lines))} if lines else {}
    shown |= {"validation loss": scores["loss"]} | {name: value for name, value in scores.items() if name != "loss"}
    text = "  ".join(f"{name} {format_value(name, value)}" for name, value in shown.items())
    say(f"epoch {number / run.epoch_steps:g}/{run.steps / run.epoch_steps:g}  {text}")


def _finish(run, state, history, stopwatch) -> dict[str, float]:
    """Pictures, summary.json and tables of the best epoch; gives its scores."""
    tuned = finetuning.open_label_model(run.workdir, run.material.mesh, say)
    answers = run.ask(tuned.params)
    if answers is None:  # asked to stop: the same command comes here again
        return {}
    scores, best = run.score(answers), history.best()
    assert best is not None
    if jax.process_index() == 0:
        _draw(run, answers, history)
        summary = scores | {
            "metric": run.metric,
            "best_step": best["step"],
            "steps": int(state.step),
            "task": run.config.labels.task,
            "classes": run.material.classes,
            "baseline": baseline(run.material.validation, run.model.head),
            "train_examples": len(run.material.train.records),
            "validation_examples": len(run.material.validation.records),
            "parameters": count_parameters(tuned.params),
            "seconds": stopwatch.total(),
            **stopwatch.shares(),
            "peak_memory_bytes": peak_memory_bytes(),
            "device": jax.devices()[0].device_kind,
            "versions": {"python": sys.version.split()[0]} | {name: metadata.version(name) for name in LIBRARIES},
            "command": shlex.join(["python", "-m", "experiments.finetune", *sys.argv[1:]]),
        }
        write_atomically(epath.Path(run.workdir) / "summary.json", json.dumps(summary, indent=2) + "\n")
    return scores


def _draw(run, answers, history):
    curves = {}
    for split, label in (("train", "training"), ("validation", "validation")):
        lines = history.lines(split)
        curves[label] = ([line["step"] for line in lines], [line["loss"] for line in lines])
    curves_picture(os.path.join(run.workdir, "loss.png"), curves, "loss")
    if run.model.head == "classification":
        labels = np.array(run.material.validation.texts.labels)
        chosen = np.array([int(logits.argmax()) for logits in answers.values])
        path = os.path.join(run.workdir, "confusion_matrix.png")
        confusion_matrix_picture(path, labels, chosen, run.material.classes)


def show(run: Run) -> None:
    """Prints what a finished run reached, its classes, the published score, and what to type next."""
    summary = json.loads((epath.Path(run.workdir) / "summary.json").read_text())
    if "best_step" not in summary or not math.isfinite(summary["loss"]):
        return
    known = KNOWN_TASKS.get(run.config.labels.task)
    names = ("loss", "accuracy", "precision", "recall", "f1", "micro_f1", "macro_f1", "matthews", "pearson", "spearman")
    names += ("mean_squared_error", "exact_match")
    published = known.published if known else {}
    rows = [
        (name.replace("_", " "), format_value(name, summary[name]), str(published.get(name, "")))
        for name in names
        if name in summary
    ]
    if summary["baseline"] is not None:
        rows.append(("accuracy of the most frequent answer", format_value("accuracy", summary["baseline"]), ""))
    title = f"{summary['task']}, best after step {summary['best_step']:,} by {run.metric}"
    print_table(title, ("on validation examples", "score", "published"), rows)
    say(f"in {run.workdir}: best/, loss.png, summary.json" + _picture_name(run.model.head))
    say(f"next: python -m experiments.predict --init={shlex.quote(run.workdir)} " + _sample_text(run))


def _picture_name(head):
    return ", confusion_matrix.png" if head == "classification" else ""


def _sample_text(run):
    record = run.material.validation.records[0]
    text = record[run.config.labels.text_column]
    return shlex.quote(" ".join(map(str, text)) if isinstance(text, list) else str(text)[:60])


def show_classes(run: Run, answers: Answers) -> None:
    """Prints precision, recall and F1 of each class, where they are few."""
    classes = run.material.classes
    if run.model.head != "classification" or len(classes) > FEW_CLASSES:
        return
    chosen = np.array([classes.index(name) for name in predictions(answers, "classification", classes)])
    found = per_class_scores(np.array(run.material.validation.texts.labels), chosen, classes)
    rows = [
        (name, *(format_value("accuracy", value) for value in values[:3]), str(values[3]))
        for name, values in found.items()
    ]
    print_table("by class", ("class", "precision", "recall", "f1", "examples"), rows)
