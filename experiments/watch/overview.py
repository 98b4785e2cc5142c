"""The table at the top of the page: where each run stands."""

import math
from collections.abc import Iterator, Mapping
from html import escape

from experiments.watch.catalogue import BASELINE_NAMES, describe, ordered
from experiments.watch.curves import UNITS
from experiments.watch.markup import color, swatch, tag
from experiments.watch.panels import HELD_OUT, baseline
from experiments.watch.runs import Run

SHOWN_SCORES = 3  # beside the loss, of the newest
AMOUNTS = {"time left", "speed", "training loss", "scored loss"}  # columns of numbers alone


def overview(runs: Mapping[str, Run], now: float) -> str:
    """A row for each run, and below it what in its records is amiss.

    Args:
      runs: by name.
      now: seconds since the epoch.
    """
    rows = {name: _cells(name, run, now) for name, run in runs.items()}
    columns = list(next(iter(rows.values())))
    head = "".join(tag("th", column, class_="amount" if column in AMOUNTS else "") for column in columns)
    body = "".join(
        tag("tr", "".join(_cell(*item) for item in cells.items()), class_=color(place))
        for place, cells in enumerate(rows.values())
    )
    table = tag("table", tag("thead", tag("tr", head)) + tag("tbody", body))
    notes = "".join(tag("li", escape(note)) for name, run in runs.items() for note in notes_on(name, run))
    return tag("div", table, class_="card overview") + (tag("ul", notes, class_="notes") if notes else "")


def _cell(column, content):
    kinds = [column if column == "run" else "", "amount" if column in AMOUNTS else "", "" if content else "empty"]
    return tag("td", content, class_=" ".join(filter(None, kinds)), data_label=column)


def _cells(name: str, run: Run, now: float) -> dict[str, str]:
    state = run.state(now)
    split, scores = newest_scores(run)
    scored = _score("loss", scores.pop("loss", None))
    beside, against = baseline("loss", run), ""
    if beside is not None:
        against = tag("small", f"baseline {_score('loss', beside)}")
    return {
        "run": swatch(name) + tag("small", escape(kind_of(run))),
        "state": tag("span", state, class_=f"state {state}"),
        "steps": _steps(run),
        "time left": duration(run.seconds_left()) if state == "running" else "",
        "speed": _speed(run),
        "training loss": _score("loss", run.curves.train.newest("loss")),
        "scored loss": scored + tag("small", escape(split)) + against if scored else "",
        "scores": "".join(
            _named_score(metric, scores[metric], run) for metric in ordered(scores.keys())[:SHOWN_SCORES]
        ),
    }


def kind_of(run: Run) -> str:
    """What is trained, in two words."""
    settings = run.settings
    kind = str(settings.get("preset") or settings.get("task") or "")
    return f"{kind}, masked autoencoder" if settings.get("objective") == "mae" else kind.replace("_", " ")


def newest_scores(run: Run) -> tuple[str, dict[str, float]]:
    """The name of the split that is scored, and its newest values: no baselines, no parts of the loss."""
    for name, split in run.curves.scored.items():
        kept = [metric for metric in split.columns if metric not in BASELINE_NAMES and not metric.endswith("_loss")]
        found = {metric: split.newest(metric) for metric in kept}
        return HELD_OUT.get(name, name), {metric: value for metric, value in found.items() if value is not None}
    return "", {}


def _steps(run):
    step, planned = run.curves.last_step(), run.planned_steps()
    if not planned:
        return tag("span", f"{step:,}", class_="number") if step else ""
    text = tag("span", f"{step:,} of {planned:,}", class_="number")
    share = tag("span", f"{math.floor(100 * min(step / planned, 1))} %", class_="soft")
    return f"{text} {share}{tag('progress', max=planned, value=min(step, planned), aria_label='steps')}"


def _speed(run):
    for rate, unit in UNITS.items():
        speed, mfu = run.speed(rate), run.speed("mfu")
        if speed is not None:
            return f"{speed:,.0f} {unit}/s" + (tag("small", f"MFU {100 * mfu:.1f} %") if mfu is not None else "")
    return ""


def _score(metric, value):
    return "" if value is None else describe(metric).text(value)


def _named_score(metric, value, run):
    beside = baseline(metric, run)
    against = "" if beside is None else " " + tag("span", f"(baseline {_score(metric, beside)})", class_="soft number")
    shown = tag("span", _score(metric, value), class_="number")
    return tag("div", f"{escape(describe(metric).title)} {shown}{against}")


def duration(seconds: float | None) -> str:
    """A time as a person says it."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 2880 else f"{minutes / 1440:.1f} days"


def notes_on(name: str, run: Run) -> Iterator[str]:
    """What in the records of a run is amiss."""
    for split in run.curves.splits.values():
        for metric, step in split.not_finite.items():
            title = describe(metric).title
            yield f"{name}: {title} was no number at step {step:,}, the first of such points, which are left out"
    if run.curves.unreadable:
        yield f"{name}: {run.curves.unreadable:,} lines of metrics.jsonl cannot be read and are left out"
