"""Runs as their work folders tell of them: where they are, how far they came, whether they live."""

import dataclasses
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from etils import epath

from core_jax.errors import UserError
from core_jax.run_lock import is_locked
from experiments.watch.curves import SPEED, Curves

DEPTH = 3  # folders below one that is given, in which runs are looked for: grids and comparisons make two
SILENT_SECONDS = 60  # without a line, after which a run counts as stopped, if it does not log more slowly
SILENT_LINES = 5  # as long as so many lines would have taken
STARTING_SECONDS = 300  # in which the first line is waited for: data is prepared, the step compiled
RECENT_LINES = 20  # by which the time that is left is judged
State = Literal["starting", "running", "stopped", "finished"]


@dataclasses.dataclass
class Run:
    """One work folder."""

    workdir: epath.Path
    curves: Curves
    settings: dict[str, Any]  # flags by name
    summary: dict[str, Any]  # what the run ended with; empty before
    changed: float | None  # seconds since the epoch at which it last gave a sign of life

    @classmethod
    def open(cls, workdir: epath.PathLike) -> "Run":
        """A run whose lines are still to be read."""
        return cls(epath.Path(workdir), Curves(workdir), {}, {}, None)

    def read(self) -> None:
        """Takes in what its folder holds now."""
        self.curves.read()
        self.settings = flat(_json(self.workdir / "config.json"))
        self.summary = _json(self.workdir / "summary.json")
        signs = [self.workdir / name for name in ("metrics.jsonl", "config.json")]
        self.changed = max((sign.stat().mtime for sign in signs if sign.exists()), default=None)

    def planned_steps(self) -> int | None:
        """Steps in all: as the configuration says, or as many epochs of it as the first one was long."""
        if steps := self.settings.get("steps") or self.summary.get("steps"):
            return int(steps)
        scored = self.curves.splits.get("validation")
        epochs = self.settings.get("epochs")
        return round(epochs * scored.steps[0]) if scored and epochs else None

    def speed(self, name: str = SPEED) -> float | None:
        """A rate of the newest lines: their median, which a pause does not move."""
        speeds = self.curves.train.series(name)[1][-RECENT_LINES:]
        return float(np.median(speeds)) if len(speeds) else None

    def seconds_left(self) -> float | None:
        """Of training, at the speed of its newest lines; None where that is not known."""
        planned, speed = self.planned_steps(), self.speed()
        return max(planned - self.curves.last_step(), 0) / max(speed, 1e-9) if planned and speed else None

    def state(self, now: float) -> State:
        """Whether it lives.

        Args:
          now: seconds since the epoch.
        """
        step = self.curves.last_step()
        if self.summary and self.summary.get("steps", step) >= max(step, self.settings.get("steps", 0)):
            return "finished"
        alive = "running" if self.curves.splits else "starting"
        if is_locked(self.workdir):
            return alive
        # A run on another host holds no lock that is seen here: only what it writes tells of it.
        silent = now - self.changed if self.changed is not None else 0.0
        return alive if silent <= self._patience() else "stopped"

    def _patience(self):
        if not self.curves.splits:
            return STARTING_SECONDS
        between = np.diff(self.curves.elapsed()["seconds"])[-SILENT_LINES:]
        return max(SILENT_SECONDS, SILENT_LINES * float(between.mean()) if len(between) else 0.0)


class Watched:
    """All runs in some folders; those that begin later join."""

    def __init__(self, folders: Sequence[str]):
        """Takes folders of runs, or of folders with runs, in the order in which they are drawn.

        Raises:
          UserError: there is no run in one of them.
        """
        self._folders = folders
        self._runs: dict[str, Run] = {}
        for folder in folders:
            if next(find_runs(epath.Path(folder)), None) is None:
                raise UserError(_why_no_run(folder))

    def read(self) -> dict[str, Run]:
        """The runs by their names, as they are now."""
        for folder in self._folders:
            for workdir in find_runs(epath.Path(folder)):
                self._runs.setdefault(_absolute(str(workdir)), Run.open(workdir))
        for run in self._runs.values():
            run.read()
        return dict(zip(short_names(list(self._runs)), self._runs.values(), strict=True))


def _why_no_run(folder):
    path = epath.Path(folder)
    if not path.exists():
        found = "there is no such folder"
    elif not path.is_dir():
        found = "it is a file"
    elif not any(path.iterdir()):
        found = "it is empty"
    else:
        found = f"no config.json of a run and no metrics.jsonl, in it or up to {DEPTH} folders below"
    return (
        f"{folder} holds no run: {found}. Expected the --workdir of a run, or a folder with such folders. "
        "Type: python -m experiments.watch runs/bert-tiny"
    )


def find_runs(folder: epath.Path, depth: int = DEPTH) -> Iterator[epath.Path]:
    """The folder if it is a run's, else those in it and below, in the order of their names."""
    if not folder.is_dir():
        return
    if is_run(folder):
        yield folder
    elif depth:
        for path in sorted(folder.iterdir()):
            if not path.name.startswith("."):
                yield from find_runs(path, depth - 1)


def is_run(folder: epath.Path) -> bool:
    """Whether a folder is what `--workdir` names; folders of models have a config.json, too, but no such setting."""
    return (folder / "metrics.jsonl").exists() or "workdir" in flat(_json(folder / "config.json"))


def short_names(paths: Sequence[str]) -> list[str]:
    """What tells different paths apart: each without the folders that all are in."""
    parts = [path.split("/") for path in paths]
    levels = zip(*(part[:-1] for part in parts), strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda level: len(set(level)) == 1, levels))
    return ["/".join(part[shared:]) for part in parts]


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of settings as flags are typed: by the name of the innermost."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value) if isinstance(value, dict) else {name: value}
    return found


def _absolute(path):
    return path if "://" in path else os.path.abspath(path)


def _json(path):
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):  # not there, or not a record of a run
        return {}
    return found if isinstance(found, dict) else {}
