"""Runs as `experiments.watch` reads them, whatever state their work folders are in, and the page that it writes."""

import json
import math
import os
import pathlib
import re
import sys
import tomllib

import numpy as np
import pytest

from bert_jax.filled_masks import FILLED_MASKS
from core_jax.errors import UserError
from core_jax.run_lock import lock
from experiments.families import BertFamily, MaeFamily, VitFamily
from experiments.watch import samples
from experiments.watch.__main__ import main
from experiments.watch.catalogue import BASELINES, CHANCES
from experiments.watch.curves import Curves, thinned
from experiments.watch.page import render
from experiments.watch.panels import ALL_POINTS, build_panels
from experiments.watch.pictures import PAGE_BYTES
from experiments.watch.runs import Run, Watched, is_locked, short_names
from tests.made_up_run import finish, log, make_run

NOW = 2e9  # long after any file was written
PACKAGE = pathlib.Path(__file__).parent.parent / "experiments" / "watch"


def read(workdir):
    run = Run.open(workdir)
    run.read()
    return run


def page_of(*workdirs, refresh=0):
    return render(Watched([str(workdir) for workdir in workdirs]).read(), NOW, refresh)


def data_of(page):
    return json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[0])


def test_lines_are_read_as_they_come(tmp_path):
    curves = Curves(make_run(tmp_path, lines=5))
    curves.read()
    assert curves.train.series("loss")[0].tolist() == [2, 4, 6, 8, 10]
    line = json.dumps({"step": 12, "split": "train", "loss": 0.5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(line[:20])
    curves.read()
    assert curves.last_step() == 10  # half a line is none
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(line[20:] + "\n")
    curves.read()
    assert curves.train.series("loss")[1][-1] == 0.5
    assert len(curves.train.series("learning_rate")[0]) == 5  # what a line does not have is no point
    log(tmp_path, range(8, 11, 2))  # back to a checkpoint: the lines after it are written anew
    curves.read()
    assert curves.train.series("loss")[0].tolist() == [2, 4, 6, 8, 10]
    assert curves.scored["held_out"].series("loss")[0].tolist() == [10]
    assert not curves.unreadable


def test_time_and_tokens_follow_from_the_rates(tmp_path):
    elapsed = read(make_run(tmp_path, lines=5)).curves.elapsed()
    assert elapsed["steps"].tolist() == [0, 2, 4, 6, 8, 10]
    np.testing.assert_allclose(elapsed["seconds"], [0, 1, 2, 3, 4, 5])  # 2 steps a second
    np.testing.assert_allclose(elapsed["seen"], [0, 1e3, 2e3, 3e3, 4e3, 5e3])


def test_thinned_curves_keep_their_spikes():
    steps, values = np.arange(100_000.0), np.zeros(100_000)
    values[[123, 77_777, 99_999]] = 5, -3, 7
    curve = thinned(steps, values, 500)
    assert {len(column) for column in curve.values()} == {500}
    assert (min(curve["low"]), max(curve["high"]), curve["steps"][-1]) == (-3, 7, 99_999)
    assert sum(curve["values"]) * 200 == pytest.approx(values.sum(), rel=1e-4)
    assert thinned(steps[:500], values[:500], 500)["values"] == values[:500].tolist()


def test_hundred_thousand_lines_make_a_small_page(tmp_path):
    make_run(tmp_path, steps=100_000)
    losses = np.random.default_rng(0).random(100_000)
    losses[54_321] = 1e6
    lines = (f'{{"step": {step}, "split": "train", "loss": {loss}}}\n' for step, loss in enumerate(losses.tolist()))
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    [panel] = build_panels(Watched([str(tmp_path)]).read())
    [curve] = panel["series"]
    assert max(curve["high"]) == 1e6
    # With as many points as a page has at most, and as many pictures, it stays below 5 MB.
    bytes_of_a_point = len(json.dumps(panel)) / len(curve["steps"])
    assert bytes_of_a_point * ALL_POINTS + PAGE_BYTES < 4.8e6


def test_what_is_no_number_is_left_out_and_said(tmp_path):
    workdir = make_run(tmp_path)
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 22, "split": "train", "loss": NaN}\n{"step": 24, "split": "train", "loss": Infinity}\nx\n')
    page = page_of(workdir)
    assert "loss was no number at step 22" in page
    assert "1 lines of metrics.jsonl cannot be read" in page
    [loss] = [panel for panel in data_of(page)["panels"] if panel["name"] == "loss"]
    assert all(math.isfinite(value) for series in loss["series"] for value in series["values"])


def test_states(tmp_path):
    run = read(make_run(tmp_path / "a", lines=10))
    changed = (tmp_path / "a" / "metrics.jsonl").stat().st_mtime
    assert run.state(changed + 30) == "running"
    assert run.state(changed + 300) == "stopped"
    assert run.planned_steps() == 100
    assert run.seconds_left() == pytest.approx((100 - 20) / 2)
    with lock(tmp_path / "a"):
        on_linux = sys.platform == "linux"  # elsewhere nobody lists locks
        assert is_locked(run.workdir) == on_linux
        assert run.state(changed + 300) == ("running" if on_linux else "stopped")
    assert not is_locked(run.workdir)
    finish(tmp_path / "a", steps=20)
    run.read()
    assert run.state(changed + 300) == "stopped"  # --steps grew since it was finished
    finish(tmp_path / "a", steps=100)
    run.read()
    assert run.state(changed) == "finished"
    (tmp_path / "a" / "metrics.jsonl").unlink()
    (tmp_path / "a" / "summary.json").unlink()
    run.read()
    assert run.state(changed) == "starting"


def test_epochs_are_steps_once_the_first_has_ended(tmp_path):
    make_run(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"tuning": {"epochs": 2.5, "workdir": "x"}}))
    assert read(tmp_path).planned_steps() is None
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "split": "validation", "f1": 0.5}\n')
    assert read(tmp_path).planned_steps() == 100


def test_runs_are_found_below_a_folder_and_told_apart(tmp_path):
    for name in ("a/seed=0", "b/seed=0", "b/model"):
        make_run(tmp_path / name)
    (tmp_path / "b/model/config.json").write_text('{"width": 3}')  # of a model: no run
    (tmp_path / "b/model/metrics.jsonl").unlink()
    watched = Watched([str(tmp_path), str(tmp_path / "b")])
    assert list(watched.read()) == ["a/seed=0", "b/seed=0"]
    make_run(tmp_path / "c")
    assert list(watched.read()) == ["a/seed=0", "b/seed=0", "c"]
    assert short_names(["/runs/bert-tiny"]) == ["bert-tiny"]


def test_mistakes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("empty").mkdir()
    pathlib.Path("text").mkdir()
    pathlib.Path("text/a.txt").touch()
    for folder, found in {
        "no": "no such folder",
        "empty": "is empty",
        "text": "no config",
        "text/a.txt": "file",
    }.items():
        with pytest.raises(UserError, match=rf"^{folder} holds no run: .*{found}.*experiments.watch runs/bert-tiny"):
            main([folder])
    mistakes = {
        (): "no work folder",
        ("text", "--refresh=0"): "1 or more",
        ("text", "--out=text"): "folder",
        ("text", "--out=no/a"): "no folder",
    }
    for arguments, found in mistakes.items():
        with pytest.raises(SystemExit, match="2"):
            main(list(arguments))
        assert found in capsys.readouterr().err


def test_once_writes_a_page_of_a_run_that_goes_on(tmp_path, capsys):
    make_run(tmp_path)
    assert main([str(tmp_path), "--once"]) == 0
    page = (tmp_path / "watch.html").read_text()
    assert not data_of(page)["live"]
    assert (tmp_path / "watch.html").as_uri() in capsys.readouterr().out.replace("\n", "")
    assert [name for name in os.listdir(tmp_path) if name.startswith(".watch")] == []


def test_a_page_shows_states_scores_times_and_differences(tmp_path):
    page = page_of(make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1), refresh=10)
    data = data_of(page)
    assert (data["live"], data["refresh"], [run["name"] for run in data["runs"]]) == (True, 10, ["a", "b"])
    [accuracy] = [panel for panel in data["panels"] if panel["name"] == "mlm_accuracy"]
    assert [(series["run"], series["split"]) for series in accuracy["series"]] == [
        *((0, "training"), (0, "held-out"), (1, "training"), (1, "held-out"))
    ]
    assert {series["baseline"] for series in accuracy["series"]} == {0.05}
    for shown in (
        "20 of 100",
        "1,000 tokens/s",
        "MFU 40.0 %",
        "MLM accuracy",
        "2.00 %",
        "baseline 5.00 %",
        "50 % computing",
    ):
        assert shown in page
    differences = re.findall(r"<h2>In what the runs differ</h2>.*?</table>", page, re.DOTALL)[0]
    assert re.findall(r"<th>--(\w+)</th>", differences) == ["seed"]


def test_nothing_in_a_run_can_become_part_of_the_page(tmp_path):
    page = page_of(make_run(tmp_path / "<b>&", data="</script><script>alert(1)</script>"))
    assert "<b>" not in page
    assert "alert(1)" in page
    assert "<script>alert" not in page
    addresses = set(re.findall(r"""https?:[^"'\s)]+""", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not an address that is loaded


def test_filled_masks_are_shown(tmp_path):
    workdir = make_run(tmp_path)
    (workdir / FILLED_MASKS).write_text(json.dumps([[["a <b>", ["right", "wrong"]], [["same", "same"], "end"]]]))
    page = page_of(workdir)
    assert 'a &lt;b&gt; <mark class="wrong">wrong</mark> <small>(right)</small>' in page
    assert "<mark>same</mark> end" in page
    (workdir / FILLED_MASKS).write_text("[[[3]]]")
    assert "<mark" not in page_of(workdir)
    assert samples.FILLED_MASKS == FILLED_MASKS


def test_baselines_are_those_of_the_families():
    wordings = [family.wording for family in (BertFamily(), VitFamily(), MaeFamily())]
    rows = {(score, baseline) for wording in wordings for _, score, baseline in wording.rows if baseline}
    assert {(score, baseline) for score, names in BASELINES.items() for baseline in names} == rows
    assert {name: value for wording in wordings for name, value in wording.chances.items()} == CHANCES


def test_the_package_holds_the_files_of_the_page():
    settings = tomllib.loads((PACKAGE.parent.parent / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["experiments.watch"]
    shipped = {file.name for pattern in patterns for file in PACKAGE.glob(pattern)}
    assert shipped == {file.name for file in PACKAGE.iterdir() if file.is_file() and file.suffix != ".py"}
    assert len(shipped) == 4
