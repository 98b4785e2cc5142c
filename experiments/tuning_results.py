"""What a fine-tuning run ends with: pictures, summary.json, tables; and several runs beside each other."""

import json
import math
import os
import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from etils import epath

from bert_jax import finetuning
from bert_jax.answers import Answers, baseline
from bert_jax.known_tasks import KNOWN_TASKS, PublishedScore
from core_jax.class_scores import per_class_scores
from core_jax.pictures import confusion_matrix_picture, curves_picture
from core_jax.stopwatch import Stopwatch
from core_jax.workdir import write_atomically
from experiments.console import format_value, print_table, say
from experiments.results import count_parameters, load, save
from experiments.tuning_history import History

if TYPE_CHECKING:
    from experiments.tuning import Run

FEW_CLASSES = 20  # up to so many are shown one by one
ROUNDING = 1e-9  # by which scores of the same answers may differ
Scores = dict[str, float]
SCORES = (  # in the order of the tables
    *("loss", "accuracy", "precision", "recall", "f1", "micro_f1", "macro_f1", "matthews", "pearson", "spearman"),
    *("mean_squared_error", "exact_match", "best_f1", "best_threshold"),
)


def finish(run: "Run", step: int, history: History, stopwatch: Stopwatch) -> Scores | None:
    """Scores the best parameters, on all sets of examples; writes pictures and summary.json.

    Args:
      run: that has ended.
      step: number of steps that it took.
      history: of its scores.
      stopwatch: of its time.
    Returns:
      Scores of the validation examples, or None where the run is asked to stop: the same command comes here again.
    """
    material, best = run.material, history.best()
    tuned = finetuning.open_label_model(run.workdir, material.mesh, say)
    sets = {"validation": material.validation, **material.others}
    answers = {name: run.ask(tuned.params, examples) for name, examples in sets.items()}
    if any(found is None for found in answers.values()):
        return None
    scores = {name: run.score(found, sets[name]) for name, found in answers.items() if found is not None}
    if jax.process_index() == 0:
        assert best is not None
        assert answers["validation"] is not None
        _draw(run, answers["validation"], history)
        summary = scores["validation"] | {
            "others": {name: scores[name] for name in material.others},
            "by_class": _by_class(run, answers["validation"]),
            "metric": run.metric,
            "best_step": best["step"],
            "steps": step,
            "task": run.config.labels.task,
            "baseline": baseline(material.validation),
            "train_examples": len(material.train.records),
            "validation_examples": len(material.validation.records),
            "parameters": count_parameters(tuned.params),
        }
        save(run.workdir, summary, stopwatch)
    return scores["validation"]


def _by_class(run: "Run", answers: Answers) -> dict[str, Any]:
    """Precision, recall, F1 and number of examples of each class."""
    if run.model.head != "classification":
        return {}
    return per_class_scores(*_labels(run, answers), run.material.classes)


def _labels(run, answers):
    """The right classes and the chosen ones."""
    chosen = np.array([int(logits.argmax()) for logits in answers.values])
    return np.array(run.material.validation.texts.labels), chosen


def _draw(run, answers, history):
    curves = {}
    for split, label in (("train", "training"), ("validation", "validation")):
        lines = history.lines(split)
        curves[label] = ([line["step"] for line in lines], [line["loss"] for line in lines])
    curves_picture(os.path.join(run.workdir, "loss.png"), curves, "loss")
    if run.model.head == "classification":
        path = os.path.join(run.workdir, "confusion_matrix.png")
        confusion_matrix_picture(path, *_labels(run, answers), run.material.classes)


def show(workdir: str, text: str) -> None:
    """Prints what a finished run reached, its classes, the published score, and what to type next.

    Args:
      workdir: of the run.
      text: an example, for the command to type next.
    """
    summary = load(workdir)
    if summary is None or not math.isfinite(summary["loss"]):
        return
    title = f"{summary['task']}, best after step {summary['best_step']:,} by {summary['metric']}"
    show_scores(title, summary["task"], {"validation": summary} | summary["others"], summary["baseline"])
    show_classes(summary["by_class"])
    picture = ", confusion_matrix.png" if summary["by_class"] else ""
    say(f"in {workdir}: best/, loss.png, summary.json{picture}; {summary['seconds']:,.0f} s")
    say(f"next: python -m experiments.predict --init={shlex.quote(workdir)} {shlex.quote(text)}")


def show_scores(title: str, task: str, sets: dict[str, Any], blind: float | None) -> None:
    """Prints the scores of sets of examples side by side, with the published ones of a known task.

    Args:
      title: of the table.
      task: its name.
      sets: scores by the name of the set.
      blind: accuracy of the most frequent answer, where there is such a thing.
    """
    known = KNOWN_TASKS.get(task)
    published = known.published if known else {}
    first = next(iter(sets.values()))
    rows = [
        (
            name.replace("_", " "),
            *(format_value(name, scores[name]) if name in scores else "" for scores in sets.values()),
            *([published_text(name, published.get(name))] if published else []),
        )
        for name in (*SCORES, *(name for name in first if name.startswith("f1/")))
        if name in first
    ]
    if blind is not None:
        rows.append(
            ("accuracy of the most frequent answer", format_value("accuracy", blind), *[""] * (len(rows[0]) - 2))
        )
    print_table(title, ("", *sets, *(["published"] if published else [])), rows)
    for source in dict.fromkeys(score.source for score in published.values()):
        say(f"published: {source}")


def published_text(name: str, score: PublishedScore | None) -> str:
    """A published score with its deviation, or nothing."""
    if score is None:
        return ""
    spread = "" if score.deviation is None else f" ± {format_value(name, score.deviation)}"
    return format_value(name, score.value) + spread


def show_classes(by_class: dict[str, Any]) -> None:
    """Prints precision, recall and F1 of each class, where they are few."""
    if not by_class or len(by_class) > FEW_CLASSES:
        return
    rows = [
        (name, *(format_value("f1", value) for value in values[:3]), f"{values[3]:,}")
        for name, values in by_class.items()
    ]
    print_table("by class", ("class", "precision", "recall", "f1", "examples"), rows)


def compare(workdir: str, task: str, found: Sequence[tuple[str, Scores | None]], failures: Mapping[str, str]) -> None:
    """Prints runs beside each other, and over all seeds of one setting mean and standard deviation; writes runs.json.

    Args:
      workdir: of all runs.
      task: its name.
      found: name and scores of each; None of one that diverged.
      failures: why runs have failed, by their names; these count in no mean.
    """
    names = list(dict.fromkeys(name for _, scores in found if scores for name in scores))
    groups: dict[str, list[tuple[str, Scores | None]]] = {}
    for name, scores in found:
        setting = " ".join(part for part in name.split(" ") if not part.startswith("seed="))
        groups.setdefault(setting, []).append((name, scores))
    rows, results = [], {}
    for setting, members in groups.items():
        lost = [name for name, _ in members if name in failures]
        good = [scores for name, scores in members if scores is not None and name not in lost]
        values = {name: [scores[name] for scores in good] for name in names} if good else {}
        results[setting or "all seeds"] = {"failed": lost} | {
            name: {"mean": statistics.fmean(v), "std": _deviation(v), "runs": v} for name, v in values.items()
        }
        cells = [mean_text(name, values[name]) if values else "" for name in names]
        rows.append((setting or "all seeds", *cells, f"{len(lost)} of {len(members)}"))
    print_table(f"{task}, {len(found)} runs: mean ± standard deviation", ("", *names, "failed"), rows)
    for name, why in failures.items():
        say(f"failed: {name} {why}; try a lower --learning_rate or more warm-up")
    if jax.process_index() == 0:
        write_atomically(epath.Path(workdir) / "runs.json", json.dumps(results, indent=2) + "\n")


def why_failed(scores: Scores | None, blind: tuple[str, float]) -> str:
    """Why a run counts as failed, the known instability of fine-tuning BERT; nothing where it does not.

    Args:
      scores: of the run; None where it diverged.
      blind: name and value of a score that a run must exceed to have learnt something, from `blind_score`.
    Source: Mosbach et al. 2020, https://arxiv.org/abs/2006.04884
    """
    if scores is None:
        return "diverged"
    name, least = blind
    # Where all examples are alike nothing exceeds the blind guess. Of a score that is no number, nothing is true.
    perfect = 1.0 in (scores[name], scores.get("accuracy"))
    if perfect or scores[name] > least + ROUNDING:
        return ""
    return f"is no better than a blind guess ({name} {format_value(name, least)})"


def _deviation(values):
    return statistics.stdev(values) if len(values) > 1 else 0.0


def mean_text(name: str, values: Sequence[float]) -> str:
    """Mean and, of several values, standard deviation."""
    mean = format_value(name, statistics.fmean(values))
    return f"{mean} ± {format_value(name, _deviation(values))}" if len(values) > 1 else mean
