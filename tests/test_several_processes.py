"""Several processes that train as one, started as a user starts them; what is compared is a run of one process."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from bert_jax.pretraining import open_trained
from core_jax.checkpoints import saved_steps
from core_jax.sharding import parse_mesh
from tests import tiny_run
from tests.process_group import ADDRESS, COUNT, FLAGS, INDEX, group, run_group


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> pathlib.Path:
    return tiny_run.write_text(tmp_path_factory.mktemp("text") / "text.txt")


def flags(workdir: pathlib.Path, text: pathlib.Path, **changes: object) -> list[str]:
    values = {"workdir": workdir, "data": f"text:{text}"} | FLAGS | changes
    return [f"--{name}={value}" for name, value in values.items()]


def lines(workdir: pathlib.Path, split: str = "train") -> list[dict]:
    path = workdir / "metrics.jsonl"
    parsed = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in parsed if line["split"] == split]


def assert_alike(workdir: pathlib.Path, other: pathlib.Path, steps: int) -> None:
    """The same batches, losses, scores and parameters; every step written once."""
    for folder in (workdir, other):
        assert [line["step"] for line in lines(folder)] == list(range(1, steps + 1))
    for ours, theirs in zip(lines(workdir), lines(other), strict=True):
        assert ours["useful_positions"] == theirs["useful_positions"]  # another order would change it
        np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-5)
    ours, theirs = (lines(folder, "held_out")[-1]["loss"] for folder in (workdir, other))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    mesh = parse_mesh("data:1", devices=jax.devices()[:1])
    ours, theirs = (open_trained(str(folder), mesh, report=pytest.fail).params for folder in (workdir, other))
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5), ours, theirs)


def test_sigterm_on_one_stops_all_and_one_process_goes_on(text, tmp_path):
    """The second of two is told; a single process with as many devices takes over."""
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    with group(flags(parts, text, steps=100_000, checkpoint_every=0), 2) as two:
        two.wait_until(lambda: len(lines(parts)) >= 2)
        two.processes[1].send_signal(signal.SIGTERM)
        codes, outputs = two.finish()
    assert codes == [143, 143], outputs
    [step] = saved_steps(parts / "checkpoints")
    assert [output.count(f"stopped after step {step}") for output in outputs] == [1, 0]
    for index, output in enumerate(outputs):
        assert f"process {index} of 2 on" in output
        assert f"device {index} of 2" in output
    longer = {"steps": step + 2, "checkpoint_every": 0}
    with (
        group(flags(parts, text, **longer), devices=2) as resumed,
        group(flags(whole, text, **longer), devices=2) as undisturbed,
    ):
        assert undisturbed.finish()[0] == [0], undisturbed.outputs()
        codes, outputs = resumed.finish()
        assert codes == [0], outputs
    assert f"going on from step {step}" in outputs[0]
    assert_alike(parts, whole, step + 2)


@pytest.mark.slow
def test_any_number_of_processes_goes_on(text, tmp_path):
    """4, then 2, then 1; and 1, then 4. Heads lie across hosts, so that hosts share rows."""
    down, up, whole = (tmp_path / name for name in ("down", "up", "whole"))
    mesh = "data:2,tensor:2"

    def train(workdir, steps, count):
        codes, outputs = run_group(flags(workdir, text, steps=steps, mesh=mesh), count, devices=4 // count)
        assert codes == [0] * count, outputs
        return "".join(outputs)

    train(down, 3, 4)
    assert "going on from step 3" in train(down, 6, 2)
    assert "going on from step 6" in train(down, 9, 1)
    train(whole, 9, 1)
    shutil.copytree(whole, up)
    shutil.rmtree(up / "checkpoints" / "9")  # as if it had been killed after step 6
    (up / "summary.json").unlink()
    assert "going on from step 6" in train(up, 9, 4)
    assert_alike(down, whole, 9)
    assert_alike(up, whole, 9)
    codes, outputs = run_group([f"--init={whole}", f"--mesh={mesh}"], 2, devices=2, command="experiments.evaluate")
    assert codes == [0, 0], outputs
    expected = lines(whole, "held_out")[-1]
    assert f"{expected['mlm_loss']:.4f}" in outputs[0]
    assert f"{100 * expected['nsp_accuracy']:.2f} %" in outputs[0]
    assert "MLM" not in outputs[1]
    assert "devices 2-3 of 4" in outputs[1]


@pytest.mark.slow
def test_a_process_that_dies_ends_all_and_the_run_goes_on(text, tmp_path):
    """First a worker, then process 0, in which jax's coordinator lives; last a worker that hangs."""
    workdir = tmp_path / "run"
    endless = flags(workdir, text, steps=100_000)
    for victim, number in ((1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGSTOP)):
        before = len(lines(workdir))
        with group(endless, 2) as two:
            two.wait_until(lambda before=before: len(lines(workdir)) > before + 3)
            two.processes[victim].send_signal(number)
            survivor = two.processes[1 - victim]
            assert survivor.wait(60) == 1, two.outputs()
            output = two.outputs()[1 - victim]
        assert f"process {victim}" in output.splitlines()[-1]
        assert "it goes on from the last checkpoint" in output.splitlines()[-1]
    newest = saved_steps(workdir / "checkpoints")[-1]
    codes, outputs = run_group(flags(workdir, text, steps=newest + 1), devices=2)
    assert codes == [0], outputs
    assert f"going on from step {newest}" in outputs[0]
    assert [line["step"] for line in lines(workdir)] == list(range(1, newest + 2))


@pytest.mark.slow
def test_sigterm_while_evaluating_stops_all(text, tmp_path):
    workdir = tmp_path / "run"
    with group(flags(workdir, text, steps=2, evaluate_every=1, evaluation_passes=100_000), 2) as two:
        two.wait_until(lambda: len(lines(workdir)) == 1)  # what follows is a day of evaluation
        two.processes[1].send_signal(signal.SIGTERM)
        codes, outputs = two.finish()
    assert codes == [143, 143], outputs
    assert saved_steps(workdir / "checkpoints") == [1]


@pytest.mark.slow
def test_a_mistake_ends_all_with_one_message(text, tmp_path):
    """Wherever it shows: in the source, which process 0 alone reads, in the text, in flags, in folders."""

    def refused(message, arguments, **settings):
        codes, outputs = run_group(arguments, 2, **settings)
        assert codes == [2, 2], outputs
        assert "".join(outputs).count("error:") == 1, outputs
        assert message in "".join(outputs)

    refused("no file matches", flags(tmp_path / "run", tmp_path / "missing.txt"))
    refused("fewer than --global_batch_size", flags(tmp_path / "run", text, global_batch_size=2048))
    assert list((tmp_path / "run").iterdir()) == []  # the mended command may use it
    refused("another configuration", [flags(tmp_path / "run", text, seed=seed) for seed in (0, 1)])
    refused("--mesh=data:1 asks for 1 devices", flags(tmp_path / "run", text, mesh="data:1"))
    folders = [tmp_path / "host0", tmp_path / "host1"]
    for folder in folders:
        folder.mkdir()
    refused("one that all hosts share", flags(pathlib.Path("run"), text), folders=folders)


@pytest.mark.slow
def test_what_one_process_cannot_read_none_takes(text, tmp_path):
    """Each reads its own half of the parameters; only the second half is damaged."""
    workdir = tmp_path / "run"
    codes, outputs = run_group(flags(workdir, text, mesh="fsdp:2"), 2)
    assert codes == [0, 0], outputs
    for file in (workdir / "checkpoints" / "6" / "state" / "ocdbt.process_1").rglob("d/*"):
        file.write_bytes(b"nothing")
    codes, outputs = run_group(flags(workdir, text, mesh="fsdp:2", steps=7), 2)
    assert codes == [0, 0], outputs
    assert outputs[0].count("checkpoint 6 is damaged (process 1: ") == 1
    assert "going on from step 3" in outputs[0]
    assert (workdir / "damaged_checkpoints" / "6-0").exists()
    assert [line["step"] for line in lines(workdir)] == list(range(1, 8))


@pytest.mark.slow
def test_who_does_not_come_is_missed():
    """The command was typed on one host of two."""
    code = "from core_jax import distributed; distributed.CONNECT_SECONDS = 2; distributed.initialise(60, print)"
    environment = {ADDRESS: "localhost:0", COUNT: "2", INDEX: "0", "JAX_PLATFORMS": "cpu"}
    line = [sys.executable, "-u", "-c", code]  # it may be aborted, and then writes nothing that it kept back
    done = subprocess.run(line, env=os.environ | environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "process 0 of 2 waits for the others" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("error: not all of 2 processes met within 2 s")
