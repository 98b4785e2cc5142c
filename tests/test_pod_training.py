"""Pretraining on a simulated pod that is taken away in mid-run, and what `experiments.doctor` finds there."""

import json
import time
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from bert_jax.pretraining import open_trained
from core_jax.sharding import parse_mesh
from tests import tiny_run
from tests.process_group import FLAGS, group
from tests.simulated_pod import Pod

PACKAGES = ("core_jax", "bert_jax", "vit_jax", "experiments")


@pytest.fixture
def pod(tmp_path) -> Iterator[Pod]:
    pod = Pod(tmp_path, PACKAGES)
    pod.environment["JAX_NUM_CPU_DEVICES"] = "1"
    yield pod
    pod.close()


@pytest.mark.slow
def test_a_preempted_pod_ends_with_the_parameters_of_one_that_was_not(pod, tmp_path):
    text, disturbed, whole = tiny_run.write_text(tmp_path / "text.txt"), tmp_path / "my bucket", tmp_path / "whole"
    steps = {"steps": 100, "checkpoint_every": 10, "log_every": 10}

    def flags(workdir):
        values = {"workdir": workdir, "data": f"text:{text}"} | FLAGS | steps
        return [f"--{name}={value}" for name, value in values.items()]

    pod.create(2, "--spot")
    process = pod.start("run", "pod", "--recreate", "--", "python", "-m", "experiments.pretrain", *flags(disturbed))
    end = time.monotonic() + 600
    while not (disturbed / "checkpoints" / "10").exists() and time.monotonic() < end and process.poll() is None:
        time.sleep(0.02)
    pod.preempt()
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert "pod was preempted" in output
    assert "going on from step" in output.partition("pod was preempted")[2]
    assert pod.type("delete", "pod", "--yes")[0] == 0
    with group(flags(whole), 2) as undisturbed:
        assert undisturbed.finish(600)[0] == [0, 0], undisturbed.outputs()
    mesh = parse_mesh("data:1", devices=jax.devices()[:1])
    ours, theirs = (open_trained(str(folder), mesh, report=pytest.fail).params for folder in (disturbed, whole))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    scores = [json.loads((folder / "summary.json").read_text())["mlm_loss"] for folder in (disturbed, whole)]
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_the_doctor_looks_at_every_host(pod, tmp_path):
    """All is well; then the command is one that would not start."""
    pod.create(2)
    pretraining = ["python", "-m", "experiments.pretrain", f"--workdir={tmp_path / 'my bucket'}", "--data=sample"]
    code, output = pod.type("doctor", "pod", "--", *pretraining, "--mesh=data:2", seconds=600)
    assert code == 0, output
    assert "2 devices on 2 hosts" in output
    assert "GB/s a device" in output
    assert output.count("my bucket can be written and read") == 2
    assert "64 rows, 32 on each host, 32 at once" in output
    code, output = pod.type("doctor", "pod", "--", *pretraining, "--mesh=data:3", seconds=600)
    assert code == 1, output
    assert "--mesh=data:3 asks for 3 devices, but there are 2" in output
    assert output.rstrip().endswith("something is broken: see above")
