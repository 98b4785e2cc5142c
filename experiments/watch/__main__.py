"""Draws runs as one page:   python -m experiments.watch WORKDIR... [--once=True] [--refresh=10] [--out=PATH]

The page is a file: open it in any browser, on this machine or where it is copied to. While the command runs, it is
written anew, and an open page follows; Ctrl-C ends that, not the runs.
"""

import dataclasses
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Annotated

import tyro

from core_jax.atomic_files import write_atomically
from core_jax.config import require
from experiments.console import parse_flags, run_command, say
from experiments.watch.page import render
from experiments.watch.runs import Run, Watched


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watching:
    """Draws runs as one page that needs no server."""

    workdirs: Annotated[tuple[str, ...], tyro.conf.Positional] = ()  # of runs, or folders with such in them
    once: bool = False  # write the page once and end, instead of following the runs
    refresh: int = 10  # seconds after which the page is written again
    out: str = ""  # the page; by default watch.html in the first folder

    def __post_init__(self):
        require(bool(self.workdirs), "no work folder given; type one, such as runs/bert-tiny")
        require(self.refresh > 0, f"--refresh={self.refresh}: expected seconds, 1 or more; --once=True writes once")
        require(not os.path.isdir(self.out), f"--out={self.out} is a folder; expected the name of a file")
        folder = os.path.dirname(self.out) or "."
        require(
            "://" in folder or os.path.isdir(folder), f"--out={self.out}: there is no folder {folder}; make it first"
        )


def main(arguments: list[str]) -> int:
    """Draws until all runs are finished; returns the exit code."""
    flags = parse_flags(Watching, arguments, "Draws runs as one page that needs no server.", switches=["--once"])
    watched = Watched(flags.workdirs)
    path = flags.out or os.path.join(flags.workdirs[0], "watch.html")
    runs = watched.read()
    is_over = flags.once or _are_finished(runs)
    write_page(path, runs, 0 if is_over else flags.refresh)
    say(f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} drawn; open in a browser: {_address(path)}")
    if is_over:
        return 0
    say(f"written anew every {flags.refresh} s until all runs are finished; Ctrl-C ends it, not the runs")
    try:
        while not _are_finished(runs):
            time.sleep(flags.refresh)
            runs = watched.read()
            write_page(path, runs, flags.refresh)
        say("all runs are finished")
    except KeyboardInterrupt:
        say("no longer watched; the runs go on")
    write_page(path, watched.read(), 0)
    return 0


def write_page(path: str, runs: Mapping[str, Run], refresh: int) -> None:
    """Writes the page of runs that were read; a browser sees the old one or the new.

    Args:
      path: of the page.
      runs: by name.
      refresh: seconds until it is written again; 0 where it will not be.
    """
    write_atomically(path, render(runs, time.time(), refresh))


def _are_finished(runs):
    now = time.time()
    return all(run.state(now) == "finished" for run in runs.values())


def _address(path):
    return path if "://" in path else pathlib.Path(path).absolute().as_uri()


if __name__ == "__main__":
    run_command(main)
