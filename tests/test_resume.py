"""A killed run, started again with the same command, ends with the parameters of one that was never disturbed."""

import json
import os
import pathlib
import random
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

from bert_jax.pretraining import open_trained
from core_jax.checkpoints import saved_steps
from core_jax.sharding import parse_mesh
from tests.tiny_run import finish, flags, start, write_text

# Dropout is on: its randomness must repeat as well. A save every third step keeps a save under way nearly always.
CHANGES = {"steps": 90, "checkpoint_every": 3, "log_every": 3, "evaluate_every": 40, "dropout": 0.1}


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> pathlib.Path:
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(scope="module")
def undisturbed(text, tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    code, output = finish(start(flags(workdir, text, **CHANGES)))
    assert code == 0, output
    return workdir


def final_params(workdir: pathlib.Path):
    mesh = parse_mesh("data:1", devices=jax.devices()[:1])
    return open_trained(str(workdir), mesh, report=pytest.fail).params


def assert_equal_runs(workdir: pathlib.Path, other: pathlib.Path) -> None:
    """Parameters to the bit, held-out scores to the digit, and each logged step once."""
    jax.tree.map(np.testing.assert_array_equal, final_params(workdir), final_params(other))
    ours, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (workdir, other))
    for name in ("loss", "mlm_accuracy", "nsp_accuracy", "unigram_accuracy"):
        assert ours[name] == theirs[name]
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["split"] == "train"]
    assert steps == list(range(3, 91, 3))


def half_written(workdir: pathlib.Path) -> list[pathlib.Path]:
    """Checkpoints that are being written now."""
    return list((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def wait_until(condition, process: subprocess.Popen, seconds: float = 120) -> bool:
    """Whether the condition came true before the process ended."""
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.002)
    return True


@pytest.mark.slow
def test_killed_in_the_middle_of_saves_and_at_random(text, undisturbed, tmp_path):
    workdir, chance = tmp_path / "run", random.Random(0)
    command = flags(workdir, text, **CHANGES)
    interrupted = []
    for kill in range(4):
        process = start(command)
        before = saved_steps(workdir / "checkpoints")
        progressed = lambda before=before: saved_steps(workdir / "checkpoints") != before  # noqa: E731
        # The first kill falls into the making of vocabulary and corpus, every other one into a save.
        condition = (lambda: (workdir / "tokenizer").exists()) if kill == 0 else progressed
        if wait_until(condition, process):
            if kill % 2:
                wait_until(lambda: bool(half_written(workdir)), process)
            else:
                time.sleep(chance.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        finish(process)
        interrupted.append(process.returncode == -signal.SIGKILL)
    assert all(interrupted), "a run ended before it could be killed: give it more steps"
    code, output = finish(start(command))
    assert code == 0, output
    assert "going on from step" in output
    assert_equal_runs(workdir, undisturbed)


def test_sigterm_saves_and_says_so(text, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    command = flags(workdir, text, **CHANGES | {"checkpoint_every": 0})  # so only the signal can have saved
    process = start(command)
    assert wait_until(lambda: (workdir / "metrics.jsonl").exists() and step_logged(workdir), process)
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == 143, output
    [step] = saved_steps(workdir / "checkpoints")
    assert f"stopped after step {step}" in output
    assert 0 < step < 90
    code, output = finish(start(command))
    assert code == 0, output
    assert f"going on from step {step}" in output
    assert_equal_runs(workdir, undisturbed)


def step_logged(workdir: pathlib.Path) -> bool:
    return os.path.getsize(workdir / "metrics.jsonl") > 0
