"""The notebooks: equal to their texts, and, slowly, executed from top to bottom, each in an empty folder."""

import json
import os
import pathlib
import re
import subprocess
import sys

import jupytext
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

from tests.notebooks import ROOT, TEXTS, notebook, with_address

TEN_MINUTES = 600


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
def test_a_notebook_is_its_text(text):
    assert text.with_suffix(".ipynb").read_text() == notebook(text), "type: python tests/notebooks.py"


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
def test_a_notebook_opens_with_a_badge_of_its_own_and_installs_in_colab(text):
    first, second, *_ = jupytext.reads(text.read_text(), fmt="md").cells
    assert f"/experiments/colab/{text.stem}.ipynb)" in first.source
    assert 'if importlib.util.find_spec("experiments") is None:' in second.source
    assert with_address(text.read_text()) == text.read_text(), "type: python tests/notebooks.py"


def test_readme_has_the_badge_of_each():
    readme = (ROOT / "README.md").read_text()
    assert with_address(readme) == readme, "type: python tests/notebooks.py"
    assert len(TEXTS) == 5
    for text in TEXTS:
        assert f"/experiments/colab/{text.stem}.ipynb)" in readme


@pytest.mark.parametrize(
    ("device", "driver", "asked", "expected"),
    [
        ("", "", [], ["."]),
        ("", "", ["sample"], [".[sample]"]),
        ("accel0", "", ["sample"], [".[sample,tpu]"]),
        ("", "580.95.05", ["sample"], [".[sample,gpu]"]),
        ("", "550.54.15", ["sample"], [".[sample]", "jax[cuda12]"]),
    ],
)
def test_what_is_installed_follows_the_device(tmp_path, device, driver, asked, expected):
    programs, devices = tmp_path / "bin", tmp_path / "dev"
    programs.mkdir()
    devices.mkdir()
    if device:
        (devices / device).touch()
    stand_ins = {"python": f'printf "%s\\n" "$@" > "{tmp_path}/typed"', "nvidia-smi": f'echo "{driver}"'}
    for name, line in stand_ins.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "DEVICES": str(devices)}
    subprocess.run(["bash", ROOT / "experiments/colab/install", *asked], env=environment, check=True)
    assert (tmp_path / "typed").read_text().split() == ["-m", "pip", "install", "--quiet", "--editable", *expected]


def execute(text: pathlib.Path, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a notebook in a kernel of its own, with the devices of the machine; gives what its cells printed."""
    for name in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS"):  # the quick compiler of the tests makes slow programs
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    made = nbformat.read(text.with_suffix(".ipynb"), as_version=4)
    # A command that fails is an error of its cell. People see its message, and can go on.
    made.cells.insert(0, nbformat.v4.new_code_cell("get_ipython().system_raise_on_error = True"))
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(made, timeout=TEN_MINUTES, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in made.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


def drawn(folder: pathlib.Path) -> set[str]:
    """The names of the pictures in a folder that are not of one colour."""
    return {path.name for path in folder.glob("*.png") if np.asarray(Image.open(path).convert("L")).std() > 0}


@pytest.mark.slow
def test_a_command_that_fails_fails_the_notebook(tmp_path, monkeypatch):
    made = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("!python -m experiments.predict --init=nowhere a")]
    )
    nbformat.write(made, tmp_path / "wrong.ipynb")
    with pytest.raises(CellExecutionError):
        execute(tmp_path / "wrong.md", tmp_path, monkeypatch)


@pytest.mark.slow
def test_pretrain_bert_learns(tmp_path, monkeypatch):
    execute(ROOT / "experiments/colab/pretrain_bert.md", tmp_path, monkeypatch)
    runs = tmp_path / "runs/colab/pretrain_bert"
    lines = [json.loads(line) for line in (runs / "run/metrics.jsonl").read_text().splitlines()]
    first, *_, last = [line["mlm_loss"] for line in lines if line["split"] == "held_out"]
    assert last < first - 1  # nats
    assert {"curves.png", "masks.png"} <= drawn(runs)


@pytest.mark.slow
def test_finetune_bert_beats_the_most_frequent_label(tmp_path, monkeypatch):
    printed = execute(ROOT / "experiments/colab/finetune_bert.md", tmp_path, monkeypatch)
    runs = tmp_path / "runs/colab/finetune_bert"
    test, answers = (
        [json.loads(line)["label"] for line in (runs / name).read_text().splitlines()]
        for name in ("test.jsonl", "answers.jsonl")
    )
    right = sum(label == answer for label, answer in zip(test, answers, strict=True))
    assert right > 2 * max(map(test.count, test))
    assert "sure of" in printed  # a mistake was shown
    assert (runs / "exported.zip").is_file()
    assert {"loss.png", "confusion.png"} <= drawn(runs)


@pytest.mark.slow
def test_vit_photos_tells_them_apart(tmp_path, monkeypatch):
    printed = execute(ROOT / "experiments/colab/vit_photos.md", tmp_path, monkeypatch)
    found = re.search(r"([\d.]+)% of 24 images that it has not seen are right", printed)
    assert found is not None
    assert float(found[1]) > 60  # a third by chance
    assert {"attention.png", "nearest.png"} <= drawn(tmp_path / "runs/colab/vit_photos")


@pytest.mark.slow
def test_generate_and_transcribe_hears_what_is_said(tmp_path, monkeypatch):
    printed = execute(ROOT / "experiments/colab/generate_and_transcribe.md", tmp_path, monkeypatch)
    runs = tmp_path / "runs/colab/generate_and_transcribe"
    summary = json.loads((runs / "gpt/summary.json").read_text())
    assert summary["bits_per_byte"] < 2.5
    rates = re.search(r"words\W+([\d.]+) %", printed)
    assert rates is not None
    assert float(rates[1]) < 10
    assert {"next_pieces.png", "listening.png"} <= drawn(runs)


@pytest.mark.slow
def test_plan_pod_plans_and_adds_up(tmp_path, monkeypatch):
    printed = execute(ROOT / "experiments/colab/plan_pod.md", tmp_path, monkeypatch)
    runs = tmp_path / "runs/colab/plan_pod"
    assert json.loads((runs / "command/plan.json").read_text())["fits"]
    assert len(re.findall(r"^v\de-\d+ .* costs +[\d.]+$", printed, re.MULTILINE)) == 3
    assert {"slices.png", "roofline.png", "batch.png"} <= drawn(runs)
