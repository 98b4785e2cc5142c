"""The README's promise: what `python -m experiments.pretrain` reaches on the sample, twice the same to the digit."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def pretrain(folder: pathlib.Path) -> dict:
    """Types the command in an empty folder, with the devices of the machine; gives the summary."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")
    }
    command = [sys.executable, "-W", "error", "-m", "experiments.pretrain"]
    root = str(pathlib.Path(__file__).parent.parent)
    subprocess.run(command, cwd=folder, env=environment | {"PYTHONPATH": root}, check=True, timeout=1800)
    return json.loads((folder / "runs" / "bert-tiny" / "summary.json").read_text())


@pytest.fixture(scope="module")
def summaries(tmp_path_factory) -> list[dict]:
    return [pretrain(tmp_path_factory.mktemp("run")) for _ in range(2)]


def test_it_learns(summaries):
    summary = summaries[0]
    assert summary["mlm_accuracy"] >= 3 * summary["unigram_accuracy"]
    assert summary["mlm_loss"] < summary["unigram_loss"]
    assert summary["nsp_accuracy"] > 0.6


def test_it_repeats_to_the_digit(summaries):
    one, other = summaries
    for name in ("loss", "mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy", "unigram_loss", "unigram_accuracy"):
        assert one[name] == other[name]


def test_it_is_light(summaries):
    for summary in summaries:
        assert summary["peak_memory_bytes"] < 2.5e9
        assert summary["data_wait_share"] < 0.02
