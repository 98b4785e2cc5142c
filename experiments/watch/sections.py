"""What of the page stands below the curves: the split of time and the settings."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from core_jax.stopwatch import REASONS
from experiments.watch.markup import color, section, swatch, tag
from experiments.watch.runs import Run

REASON_NAMES = {
    "step": "computing steps",
    "compile": "compiling",
    "data_wait": "waiting for data",
    "checkpoint": "saving",
    "evaluation": "scoring",
    "other": "the rest",
}
OWN_SETTINGS = {"workdir"}  # of every run another: no difference that one asks for
NOTHING = tag("span", "none", class_="soft")


def time_split(runs: Mapping[str, Run]) -> str:
    """A bar for each run: which share of its time went into what; nothing where no run says it."""
    rows = []
    for place, (name, run) in enumerate(runs.items()):
        if shares := shares_of(run):
            computing = tag("span", f"{100 * shares['step']:.0f} % computing", class_="number")
            rows.append(tag("div", tag("span", swatch(name)) + _bar(shares) + computing, class_=color(place)))
    if not rows:
        return ""
    legend = "".join(tag("li", _patch(reason) + text) for reason, text in REASON_NAMES.items())
    bars = tag("div", "".join(rows), class_="split")
    return section("Where the time went", tag("div", bars + tag("ul", legend, class_="shares"), class_="card"))


def shares_of(run: Run) -> dict[str, float]:
    """Of all the time since the newest start, by reason; of a finished run with its end."""
    names = [*REASONS, "other"]
    if "step_share" in run.summary:
        return {name: run.summary.get(f"{name}_share", 0.0) for name in names}
    found = {name: run.curves.train.newest(f"{name}_share") for name in names}
    return {name: value or 0.0 for name, value in found.items()} if found["step"] is not None else {}


def _bar(shares):
    parts, start = [], 0.0
    for name, share in shares.items():
        title = tag("title", f"{REASON_NAMES[name]}: {100 * share:.1f} %")
        parts.append(tag("rect", title, class_=name, x=f"{start:.1f}", width=f"{1000 * share:.1f}", height=10))
        start += 1000 * share
    text = ", ".join(f"{REASON_NAMES[name]} {100 * share:.0f} %" for name, share in shares.items())
    return tag("svg", "".join(parts), viewBox="0 0 1000 10", preserveAspectRatio="none", role="img", aria_label=text)


def _patch(reason):
    return tag("svg", tag("rect", class_=reason, width="100%", height="100%"), aria_hidden="true")


def settings(runs: Mapping[str, Run]) -> str:
    """In what the runs differ, and all of their settings."""
    known = {name: run.settings for name, run in runs.items() if run.settings}
    flags = dict.fromkeys(flag for found in known.values() for flag in found if flag not in OWN_SETTINGS)
    everywhere = [flag for flag in flags if all(flag in found for found in known.values())]
    differing = [flag for flag in everywhere if len({repr(found[flag]) for found in known.values()}) > 1]
    partly = [flag for flag in flags if flag not in everywhere]
    alike = [flag for flag in everywhere if flag not in differing]
    if len(known) < 2:
        return section("Settings", _folded("All settings", alike, known))
    same = tag("div", "These runs differ in no setting that all of them have.", class_="card")
    parts = [_settings_table(differing, known) if differing else same]
    parts.append(_folded(f"{len(partly)} settings that only some of them have", partly, known))
    parts.append(_folded(f"{len(alike)} settings that are the same", alike, known))
    return section("In what the runs differ", "".join(parts))


def _folded(title, flags, known):
    return tag("details", tag("summary", title) + _settings_table(flags, known)) if flags else ""


def _settings_table(flags: Sequence[str], known: Mapping[str, Mapping[str, Any]]) -> str:
    is_same = all(len({repr(found.get(flag)) for found in known.values()}) == 1 for flag in flags)
    columns = dict(list(known.items())[:1]) if is_same else known
    rows = []
    for flag in flags:
        cells = [
            tag("td", _setting(found, flag), data_label="" if is_same else name) for name, found in columns.items()
        ]
        rows.append(tag("tr", tag("th", f"--{escape(flag)}") + "".join(cells)))
    head = "" if is_same else tag("thead", tag("tr", tag("th") + "".join(tag("th", escape(name)) for name in columns)))
    table = tag("table", head + tag("tbody", "".join(rows)), class_="settings")
    return tag("div", table, class_="card scrolled")


def _setting(found, flag):
    value = found.get(flag)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return escape(str(value)) if flag in found and value != "" else NOTHING
