"""From runs to a curve, and from a curve to what is said of a run, as a user types it."""

import json
import pathlib
import shutil
import sys

import pytest

from bert_jax import curve_causes, reference_curve
from bert_jax.reference_curve import VALUES
from core_jax.errors import UserError
from core_jax.workdir import read_records
from experiments import pretrain
from experiments import reference_curve as measurement
from tests.tiny_run import flags, write_text

pytestmark = pytest.mark.slow  # each needs a run


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> pathlib.Path:
    """A folder with a tiny run, two that are nearly the same with other seeds, and the curve made of them."""
    folder = tmp_path_factory.mktemp("measured")
    first, *others = (folder / f"seed-{seed}" for seed in range(3))
    text = write_text(folder / "text.txt")
    tiny = {"steps": 12, "log_every": 4, "checkpoint_every": 0, "evaluate_every": 6}
    assert pretrain.main(flags(first, text, **tiny)) == 0
    for seed, other in enumerate(others, 1):
        shutil.copytree(first, other)
        edit_config(other, "training", seed=seed)
        lines = [one | {name: one[name] * (1 + 1e-3 * seed) for name in VALUES} for one in read_records(first)]
        write_lines(other, lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measurement, "command", lambda *ignored: [sys.executable, "-c", ""])  # all runs are there
        assert measurement.main(["--seeds=3", f"--workdir={folder}", f"--output={folder}/curve.json"]) == 0
    return folder


def edit_config(run: pathlib.Path, part: str, **changes: object) -> None:
    config = json.loads((run / "config.json").read_text())
    config[part] |= changes
    (run / "config.json").write_text(json.dumps(config))


def write_lines(run: pathlib.Path, lines: list[dict], rest: str = "") -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines) + rest)


@pytest.fixture
def run(measured, tmp_path, monkeypatch) -> pathlib.Path:
    """A run of this test's own, with the curve in place of ours."""
    monkeypatch.setattr(reference_curve, "FILE", measured / "curve.json")
    return pathlib.Path(shutil.copytree(measured / "seed-1", tmp_path / "run"))


def check(run: pathlib.Path) -> int:
    return pretrain.main(["--check_curve=True", f"--workdir={run}"])


def test_a_run_in_the_band(run, capsys):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert check(run) == 0
    assert "is in the band" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_under_way_that_is_not_in_the_band(run, capsys):
    leak = {"loss": 3.5, "mlm_loss": 2.8, "mlm_accuracy": 0.9}
    lines = [one | leak for one in read_records(run) if one["step"] <= 8]
    write_lines(run, lines, rest='{"step": 12, "spl')  # is being written just now
    edit_config(run, "optimizer", learning_rate=0.5)
    assert check(run) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "training, step 8" in told
    assert "held-out documents, step 6" in told
    assert curve_causes.TOO_GOOD in told
    assert told.index("1. --learning_rate=0.5") < told.index(curve_causes.LEAK.found)


def test_a_run_that_the_curve_says_nothing_about(run, tmp_path):
    with pytest.raises(UserError, match="not a work folder"):
        check(tmp_path)
    (run / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="no verdict before step 4"):
        check(run)
    edit_config(run, "text", sequence_length=16)
    with pytest.raises(UserError, match="--sequence_length: 32 in the reference, 16 here"):
        check(run)


def test_runs_that_differ_in_more_than_the_seed_make_no_curve(measured, run):
    edit_config(run, "optimizer", learning_rate=0.5)
    with pytest.raises(UserError, match="--learning_rate"):
        measurement.measure([str(measured / "seed-0"), str(run)], "python")
