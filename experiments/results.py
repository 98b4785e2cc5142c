"""summary.json and the tables that a run ends with."""

import json
import resource
import shlex
import statistics
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh
from jaxtyping import PyTree

from core_jax.family import Wording
from core_jax.stopwatch import Stopwatch
from core_jax.train import RATES
from core_jax.workdir import read_records, write_atomically
from experiments.console import format_value, print_table, say, typed_command
from vit_jax.skipped_images import describe_skipped

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tokenizers", "numpy")
RATES_AND_SHARES = (*RATES.values(), "mfu", "hardware_flops_utilization")


def describe_start(preset: str, data: str, params: PyTree, step: int, mesh: Mesh) -> str:
    """One line on what begins: model, data, devices, and where it goes on."""
    axes = ",".join(f"{axis}:{size}" for axis, size in mesh.shape.items() if size > 1) or "not sharded"
    start = f"going on from step {step}" if step else "starting"
    return (
        f"{start}: {preset}, {count_parameters(params):,} parameters, {data}; "
        f"{mesh.size} of {jax.device_count()} devices ({jax.devices()[0].device_kind}; {axes})"
    )


def count_parameters(params: PyTree) -> int:
    """The number of values in a tree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def save(workdir: str, found: dict[str, Any], stopwatch: Stopwatch) -> None:
    """Writes summary.json: what was found, times, versions, device and command.

    Args:
      workdir: the work folder.
      found: held-out scores, their baselines, and sizes.
      stopwatch: where the time went.
    """
    if jax.process_index() != 0:
        return
    summary = found | {
        **_medians(workdir),
        "seconds": stopwatch.total(),
        **stopwatch.shares(),
        "peak_memory_bytes": peak_memory_bytes(),
        "devices": jax.device_count(),
        "device": jax.devices()[0].device_kind,
        "versions": installed_versions(),
        "command": typed_command(),
    }
    write_atomically(epath.Path(workdir) / "summary.json", json.dumps(summary, indent=2) + "\n")


def installed_versions() -> dict[str, str]:
    """Of Python and of the libraries that a result may depend on."""
    return {"python": sys.version.split()[0]} | {name: metadata.version(name) for name in LIBRARIES}


def peak_memory_bytes() -> int:
    """The most memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _medians(workdir):
    """Of each rate and share that was logged, over all stretches of the run, also those before it was interrupted."""
    lines = read_records(workdir)
    logged = {name: [line[name] for line in lines if name in line] for name in RATES_AND_SHARES}
    return {name: statistics.median(values) for name, values in logged.items() if values}


def load(workdir: str) -> dict | None:
    """What summary.json holds, or None where there is none."""
    path = epath.Path(workdir) / "summary.json"
    return json.loads(path.read_text()) if path.exists() else None


def is_finished(workdir: str, steps: int) -> bool:
    """Whether a run was trained and scored for at least so many steps."""
    summary = load(workdir)
    return summary is not None and summary["steps"] >= steps


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table for a Markdown file."""
    lines = (columns, ["---"] * len(columns), *rows)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def show_scores(wording: Wording, title: str, scores: dict[str, float]) -> None:
    """Prints the held-out scores beside their baselines, where a run has these: one of an earlier version may not."""
    found = wording.chances | scores
    rows = [
        (label, format_value(name, found[name]), format_value(baseline, found[baseline]) if baseline in found else "")
        for label, name, baseline in wording.rows
        if name in found
    ]
    print_table(title, (f"on held-out {wording.held_out}", "model", "baseline"), rows)


def show(wording: Wording, workdir: str) -> None:
    """Prints what a finished run reached, where it lies and what to type next."""
    summary = load(workdir)
    if summary is None:
        return
    show_scores(wording, f"{summary['preset']} after {summary['steps']:,} steps", summary)
    say(f"baselines: {wording.baselines}")
    if summary.get("skipped_images"):
        say(describe_skipped(summary["skipped_images"], summary["first_skipped_images"]))
    say(
        f"{wording.speed.removesuffix('_per_second').replace('_', ' ')} a second: {summary[wording.speed]:,.0f}   "
        f"waited for data: {100 * summary['data_wait_share']:.2f} % of the time   "
        f"peak memory: {summary['peak_memory_bytes'] / 1e9:.2f} GB"
        + (f"   MFU: {100 * summary['mfu']:.1f} %" if "mfu" in summary else "")
    )
    say(f"checkpoint: {workdir}/checkpoints/{summary['steps']}")
    say(f"next: python -m experiments.{wording.next_command.format(workdir=shlex.quote(workdir))}")
