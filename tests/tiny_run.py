"""A pretraining run of seconds: a small made-up text and the flags for it."""

import os
import pathlib
import subprocess
import sys

import numpy as np

FLAGS = {
    "mesh": "data:1",
    "width": 16,
    "depth": 2,
    "heads": 2,
    "mlp_width": 32,
    "vocab_size": 120,
    "sequence_length": 32,
    "maximum_positions": 40,
    "global_batch_size": 8,
    "warmup_steps": 5,
    "steps": 24,
    "log_every": 8,
    "checkpoint_every": 8,
    "evaluate_every": 16,
    "evaluation_passes": 1,
    "held_out": 0.2,
}


def write_text(path: pathlib.Path, documents: int = 120) -> pathlib.Path:
    """A file of documents, each of sentences over a few words of its own, so that pairs can be told apart."""
    random = np.random.default_rng(0)
    words = np.array([f"w{number}" for number in range(60)])
    texts = []
    for _ in range(documents):
        topic = random.choice(words, 8)
        sentences = [" ".join(random.choice(topic, random.integers(3, 9))) for _ in range(random.integers(3, 7))]
        texts.append("\n".join(f"{sentence}." for sentence in sentences))
    path.write_text("\n\n".join(texts))
    return path


def flags(workdir: pathlib.Path, text: pathlib.Path, **changes: object) -> list[str]:
    """The command line of a tiny run."""
    values = {"workdir": workdir, "data": f"text:{text}"} | FLAGS | changes
    return [f"--{name}={value}" for name, value in values.items()]


def start(arguments: list[str], devices: int = 1) -> subprocess.Popen:
    """Starts `python -m experiments.pretrain` as a user would; output is joined and read as text."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    command = [sys.executable, "-m", "experiments.pretrain", *arguments]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen, seconds: float = 300) -> tuple[int, str]:
    """Waits for a process; gives its exit code and all that it printed."""
    output, _ = process.communicate(timeout=seconds)
    return process.returncode, output
