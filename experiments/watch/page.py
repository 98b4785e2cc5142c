"""The whole page: one file, with all that it needs in it."""

import base64
import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import Any

from experiments.watch.catalogue import Group
from experiments.watch.markup import color, swatch, tag
from experiments.watch.overview import overview
from experiments.watch.panels import build_panels, build_runs
from experiments.watch.runs import Run
from experiments.watch.samples import samples
from experiments.watch.sections import settings, time_split

HERE = pathlib.Path(__file__).parent
SCRIPTS = ("chart.js", "page.js")
TITLES: dict[Group, str] = {"learning": "Learning", "optimizer": "Optimizer", "speed": "Speed"}
NAMES_IN_TITLE = 3


def render(runs: Mapping[str, Run], now: float, refresh: int) -> str:
    """The page of some runs.

    Args:
      runs: by name, read.
      now: seconds since the epoch.
      refresh: seconds after which the page is written again, and loads itself anew; 0: it is not.
    """
    panels = build_panels(runs)
    data = {"live": refresh > 0, "refresh": refresh, "written": int(now), "runs": build_runs(runs), "panels": panels}
    style, script = _style(), _script()
    names = list(runs)
    heading = ", ".join(names[:NAMES_IN_TITLE])
    if len(names) > NAMES_IN_TITLE:
        heading += f" and {len(names) - NAMES_IN_TITLE} more"
    return Template((HERE / "page.html").read_text()).substitute(
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        title=escape(f"{heading} · watch"),
        heading=escape(heading),
        style=style,
        script=script,
        summary=overview(runs, now),
        chips="".join(_chip(place, name) for place, name in enumerate(names)) if len(names) > 1 else "",
        sections=_curves(panels) + time_split(runs) + samples(runs) + settings(runs),
        # Nothing in a name can end the script element that the data stand in. NaN would be no JSON: it is refused.
        data=json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    )


def _chip(place, name):
    return tag("button", swatch(name), class_=f"run {color(place)}", data_run=place)


def _curves(panels: Sequence[Mapping[str, Any]]) -> str:
    sections = []
    for group, title in TITLES.items():
        figures = "".join(_place_of(place, panel) for place, panel in enumerate(panels) if panel["group"] == group)
        if figures:
            content = tag("h2", title) + tag("div", figures, class_="panels")
            sections.append(tag("section", content, class_="curves"))
    return "".join(sections)


def _place_of(place, panel):
    """Where the script draws a panel."""
    caption = tag("figcaption", escape(panel["title"]) + tag("span", panel["unit"]))
    return tag("figure", caption + tag("div", id=f"panel-{place}"))


@functools.cache
def _style() -> str:
    return (HERE / "style.css").read_text()


@functools.cache
def _script() -> str:
    return "\n".join((HERE / name).read_text() for name in SCRIPTS)


def _hash(text):
    """What a browser lets run under the page's policy, and nothing else."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
