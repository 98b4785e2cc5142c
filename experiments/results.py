"""summary.json and the tables that a run ends with."""

import json
import resource
import shlex
import statistics
import sys
from importlib import metadata

import jax
from etils import epath
from jax.sharding import Mesh
from jaxtyping import PyTree

from bert_jax.config import BertPretraining
from bert_jax.packed_pairs import PackedPairs
from bert_jax.pretraining import Text
from core_jax.stopwatch import Stopwatch
from core_jax.workdir import write_atomically
from experiments.console import format_value, print_table, say

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tokenizers", "numpy")
SPEEDS = ("useful_tokens_per_second", "model_flops_per_second", "mfu", "hardware_flops_utilization")
SAMPLED_ROWS = 200  # of packed ones, to tell how full they are
ROWS = (  # label, model's score, baseline's score
    ("MLM accuracy", "mlm_accuracy", "unigram_accuracy"),
    ("MLM loss (nats)", "mlm_loss", "unigram_loss"),
    ("NSP accuracy", "nsp_accuracy", "chance_accuracy"),
    ("NSP loss (nats)", "nsp_loss", "chance_loss"),
)


def describe_start(config: BertPretraining, text: Text, params: PyTree, step: int, mesh: Mesh) -> str:
    """One line on what begins: model, text, devices, and where it goes on."""
    axes = ",".join(f"{axis}:{size}" for axis, size in mesh.shape.items() if size > 1) or "not sharded"
    start = f"going on from step {step}" if step else "starting"
    return (
        f"{start}: {config.preset}, {count_parameters(params):,} parameters, vocabulary {text.tokenizer.vocab_size:,}; "
        f"{_describe_training(text)} to train on, {len(text.held_out):,} held out; "
        f"{mesh.size} of {jax.device_count()} devices ({jax.devices()[0].device_kind}; {axes})"
    )


def _describe_training(text: Text) -> str:
    if not isinstance(text.train, PackedPairs):
        return f"{len(text.train):,} examples"
    pairs, rows = len(text.train.pairs), len(text.train)
    rows_read = range(0, rows, -(-rows // SAMPLED_ROWS))
    per_row, padding = text.train.measure(rows_read)
    return f"{pairs:,} examples in {rows:,} rows ({per_row:.2f} pairs a row, {100 * padding:.1f} % padding)"


def count_parameters(params: PyTree) -> int:
    """The number of values in a tree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def save(
    workdir: str,
    config: BertPretraining,
    text: Text,
    params: PyTree,
    step: int,
    scores: dict[str, float],
    stopwatch: Stopwatch,
) -> None:
    """Writes summary.json: held-out scores, their baselines, sizes, times, versions, device and command."""
    if jax.process_index() != 0:
        return
    summary = (
        scores
        | {
            "chance_accuracy": 0.5,
            "chance_loss": 0.6931471805599453,  # log 2
            "steps": step,
            "preset": config.preset,
            "parameters": count_parameters(params),
            "vocab_size": text.tokenizer.vocab_size,
            "train_examples": len(text.train.pairs if isinstance(text.train, PackedPairs) else text.train),
            "train_rows": len(text.train),
            "held_out_examples": len(text.held_out),
            **_medians(workdir),
            "seconds": stopwatch.total(),
            **stopwatch.shares(),
            "peak_memory_bytes": peak_memory_bytes(),
            "devices": jax.device_count(),
            "device": jax.devices()[0].device_kind,
            "versions": installed_versions(),
            "command": shlex.join(["python", "-m", "experiments.pretrain", *sys.argv[1:]]),
        }
    )
    write_atomically(epath.Path(workdir) / "summary.json", json.dumps(summary, indent=2) + "\n")


def installed_versions() -> dict[str, str]:
    """Of Python and of the libraries that a result may depend on."""
    return {"python": sys.version.split()[0]} | {name: metadata.version(name) for name in LIBRARIES}


def peak_memory_bytes() -> int:
    """The most memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _medians(workdir):
    """Of each of SPEEDS that was logged, over all stretches of the run, also those before it was interrupted."""
    lines = [json.loads(line) for line in (epath.Path(workdir) / "metrics.jsonl").read_text().splitlines()]
    logged = {name: [line[name] for line in lines if name in line] for name in SPEEDS}
    return {name: statistics.median(values) for name, values in logged.items() if values}


def load(workdir: str) -> dict | None:
    """What summary.json holds, or None where there is none."""
    path = epath.Path(workdir) / "summary.json"
    return json.loads(path.read_text()) if path.exists() else None


def is_finished(workdir: str, steps: int) -> bool:
    """Whether a run was trained and scored for at least so many steps."""
    summary = load(workdir)
    return summary is not None and summary["steps"] >= steps


def show_scores(title: str, scores: dict[str, float]) -> None:
    """Prints the held-out scores beside their baselines."""
    baselines = {"chance_accuracy": 0.5, "chance_loss": 0.6931471805599453} | scores
    rows = [
        (label, format_value(name, scores[name]), format_value(baseline, baselines[baseline]))
        for label, name, baseline in ROWS
    ]
    print_table(title, ("on held-out documents", "model", "baseline"), rows)


def show(workdir: str) -> None:
    """Prints what a finished run reached, where it lies and what to type next."""
    summary = load(workdir)
    if summary is None:
        return
    show_scores(f"{summary['preset']} after {summary['steps']:,} steps", summary)
    say("baselines: the frequencies of words in the training text; a fair coin")
    say(
        f"useful tokens a second: {summary['useful_tokens_per_second']:,.0f}   "
        f"waited for data: {100 * summary['data_wait_share']:.2f} % of the time   "
        f"peak memory: {summary['peak_memory_bytes'] / 1e9:.2f} GB"
        + (f"   MFU: {100 * summary['mfu']:.1f} %" if "mfu" in summary else "")
    )
    say(f"checkpoint: {workdir}/checkpoints/{summary['steps']}")
    say(f'next: python -m experiments.predict --init={shlex.quote(workdir)} "the capital of france is [MASK]."')
