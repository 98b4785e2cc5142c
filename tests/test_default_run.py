"""The README's promise: what `python -m experiments.pretrain` reaches on the sample, twice the same to the digit.

$DEFAULT_RUN may be a work folder in which that command, of the same code and machine, has ended: minutes are saved.
"""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow


WORKDIR = pathlib.Path("runs/bert-tiny")  # where the command leaves what it does
WATCHED = 400  # steps after which a second run has shown that it is the same
SCORES = ("loss", "mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy")


def start(folder: pathlib.Path) -> subprocess.Popen:
    """Types the command in an empty folder, with the devices of the machine."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")
    }
    command = [sys.executable, "-W", "error", "-m", "experiments.pretrain"]
    root = str(pathlib.Path(__file__).parent.parent)
    return subprocess.Popen(command, cwd=folder, env=environment | {"PYTHONPATH": root})


def metrics(workdir: pathlib.Path) -> list[dict]:
    """What has been written so far."""
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> pathlib.Path:
    """The work folder of a whole run."""
    if given := os.environ.get("DEFAULT_RUN"):
        return pathlib.Path(given)
    folder = tmp_path_factory.mktemp("run")
    assert start(folder).wait(timeout=1800) == 0
    return folder / WORKDIR


@pytest.fixture(scope="module")
def summary(finished) -> dict:
    return json.loads((finished / "summary.json").read_text())


def test_it_learns(summary):
    assert summary["mlm_accuracy"] >= 3 * summary["unigram_accuracy"]
    assert summary["mlm_loss"] < summary["unigram_loss"]
    assert summary["nsp_accuracy"] > 0.6


def test_it_repeats_to_the_digit(finished, tmp_path):
    process, workdir, deadline = start(tmp_path), tmp_path / WORKDIR, time.monotonic() + 1800
    while process.poll() is None and time.monotonic() < deadline:
        if any(line["step"] >= WATCHED for line in metrics(workdir)):
            process.terminate()
            break
        time.sleep(1)
    assert process.wait(timeout=300) == 143
    again = [(line["step"], line["split"], *(line.get(name) for name in SCORES)) for line in metrics(workdir)]
    once = [(line["step"], line["split"], *(line.get(name) for name in SCORES)) for line in metrics(finished)]
    assert again[-1][0] >= WATCHED
    assert again == once[: len(again)]


def test_it_is_light(summary):
    assert summary["peak_memory_bytes"] < 2.5e9
    assert summary["data_wait_share"] < 0.02
