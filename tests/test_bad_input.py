"""Every mistake ends in one clear message and exit code 2, before training, with nothing overwritten."""

import json
import pathlib
import shutil
import sys

import pytest

from core_jax import workdir as workdir_lib
from experiments import evaluate, predict, pretrain
from experiments.console import run_command
from tests.tiny_run import finish, flags, start, write_text


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> pathlib.Path:
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(scope="module")
def finished(text, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert pretrain.main(flags(folder, text, steps=2)) == 0
    return folder


@pytest.fixture
def run(finished, tmp_path) -> pathlib.Path:
    """A finished run of this test's own."""
    return pathlib.Path(shutil.copytree(finished, tmp_path / "run"))


def message(main, arguments: list[str], monkeypatch, capsys) -> str:
    """What a command that must fail prints; checks that it is one message, and the exit code."""
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as end:
        run_command(main)
    captured = capsys.readouterr()
    assert end.value.code == 2, captured.err
    assert "Traceback" not in captured.err
    assert "step" not in captured.out  # of training
    return " ".join(captured.err.split())


def snapshot(folder: pathlib.Path) -> dict[pathlib.Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


BAD_FLAGS = {
    "sequence longer than the position table": ({"sequence_length": 41}, ("--sequence_length=41", "40")),
    "mesh with more devices than there are": ({"mesh": "data:9"}, ("data:9", "8", "--mesh=data:8")),
    "mesh that does not divide the batch": ({"mesh": "data:8", "global_batch_size": 12}, ("12", "8")),
    "mesh that does not divide the heads": ({"mesh": "tensor:8", "heads": 4}, ("4", "tensor:8", "these work")),
    "mesh that cannot be read": ({"mesh": "data=8"}, ("data=8", "AXIS:SIZE")),
    "mesh of an unknown axis": ({"mesh": "model:8"}, ("model:8", "tensor")),
    "heads that do not divide the width": ({"heads": 3}, ("--width=16", "--heads=3")),
    "batch that does not divide": ({"accumulation_steps": 3}, ("--global_batch_size=8", "--accumulation_steps=3")),
    "no steps": ({"steps": 0}, ("--steps=0", "positive")),
    "data that is not there": ({"data": "text:/nowhere/*.txt"}, ("/nowhere/*.txt",)),
    "data of an unknown kind": ({"data": "txt:a"}, ("txt", "text:")),
    "tokenizer that is not there": ({"tokenizer": "/nowhere/vocab.txt"}, ("/nowhere/vocab.txt",)),
    "init that is not there": ({"init": "/nowhere"}, ("/nowhere", "work folder")),
    "packing that is neither": ({"packing": "maybe"}, ("maybe", "packing")),
    "fewer packed rows than a batch": ({"packing": True, "global_batch_size": 1024}, ("packed rows", "1024")),
    "corpus smaller than a batch": ({"global_batch_size": 1024}, ("1024", "--global_batch_size=")),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_flags(case, text, tmp_path, monkeypatch, capsys):
    changes, expected = BAD_FLAGS[case]
    arguments = flags(tmp_path / "run", text, **changes)
    told = message(pretrain.main, arguments, monkeypatch, capsys)
    assert all(part in told for part in expected), told
    left = tmp_path / "run"
    assert not left.exists() or not [path for path in left.iterdir() if path.name != ".lock"]


def test_a_flag_or_value_that_does_not_exist(text, tmp_path, monkeypatch, capsys):
    assert "--steps" in message(pretrain.main, ["--stepss=3"], monkeypatch, capsys)
    assert "float64" in message(pretrain.main, ["--dtype=float64"], monkeypatch, capsys)


BAD_FILES = {
    "empty": (b"", "document"),
    "only spaces": (b" \n\n \n", "document"),
    "undecodable": (b"one. two.\n\nthree \xff\xfe four.\n", "UTF-8"),
    "one document": (b"One sentence. Another sentence.", "document"),
    "one sentence each": (b"\n\n".join(b"a sentence number %d" % i for i in range(40)), "two sentences"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_files(case, tmp_path, monkeypatch, capsys):
    content, expected = BAD_FILES[case]
    (tmp_path / "bad.txt").write_bytes(content)
    told = message(pretrain.main, flags(tmp_path / "run", tmp_path / "bad.txt"), monkeypatch, capsys)
    assert expected in told
    # The mended file works in the same folder, with the same command.
    write_text(tmp_path / "bad.txt")
    assert pretrain.main(flags(tmp_path / "run", tmp_path / "bad.txt", steps=1)) == 0


def test_the_nearest_preset_is_suggested(monkeypatch, capsys):
    told = message(pretrain.main, ["bert-tyni"], monkeypatch, capsys)
    assert "did you mean bert-tiny?" in told
    assert "bert-large" in told


def test_a_work_folder_of_another_configuration(run, text, monkeypatch, capsys):
    before = snapshot(run)
    told = message(pretrain.main, flags(run, text, learning_rate=0.5, seed=3), monkeypatch, capsys)
    assert "--learning_rate: 0.0025 there, 0.5 now" in told
    assert "--seed: 0 there, 3 now" in told
    assert snapshot(run) == before


def test_a_work_folder_that_is_something_else(text, tmp_path, monkeypatch, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert "not empty" in message(pretrain.main, flags(tmp_path, text), monkeypatch, capsys)
    assert "is a file" in message(pretrain.main, flags(tmp_path / "notes.txt", text), monkeypatch, capsys)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("place", ["/proc/run", "/dev/null/run"])
def test_an_unwritable_work_folder(place, text, monkeypatch, capsys):
    told = message(pretrain.main, flags(pathlib.Path(place), text), monkeypatch, capsys)
    assert place in told


def test_a_full_disk(text, tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(workdir_lib.shutil, "disk_usage", lambda path: usage._replace(free=10_000))
    told = message(pretrain.main, flags(tmp_path / "run", text), monkeypatch, capsys)
    assert "the disk has" in told


def swap_vocabulary(run: pathlib.Path) -> None:
    """Exchanges two words: the size stays as it was, the meaning does not."""
    for name in ("vocab.txt", "tokenizer.json"):
        file = run / "tokenizer" / name
        content = file.read_text()
        assert "w12" in content
        file.write_text(content.replace("w12", "w@").replace("w21", "w12").replace("w@", "w21"))


def test_a_vocabulary_that_does_not_match_the_checkpoint(run, text, tmp_path, monkeypatch, capsys):
    swap_vocabulary(run)
    before = snapshot(run)
    more = flags(run, text, steps=4)
    for main, arguments in (
        (pretrain.main, more),
        (evaluate.main, [f"--init={run}"]),
        (predict.main, [f"--init={run}", "w1 [MASK]"]),
        (pretrain.main, flags(tmp_path / "new", text, init=run)),
    ):
        assert "another vocabulary" in message(main, arguments, monkeypatch, capsys)
    assert snapshot(run) == before


def test_all_checkpoints_damaged(run, text, monkeypatch, capsys):
    for file in (run / "checkpoints").rglob("*"):
        if file.is_file() and file.stat().st_size > 200:
            file.write_bytes(file.read_bytes()[:-100])
    told = message(predict.main, [f"--init={run}", "w1 [MASK]"], monkeypatch, capsys)
    assert "none of the checkpoints" in told


def test_predict_and_evaluate(run, tmp_path, monkeypatch, capsys):
    assert "no [MASK]" in message(predict.main, [f"--init={run}", "w1 w2"], monkeypatch, capsys)
    assert "longer than" in message(predict.main, [f"--init={run}", "[MASK] " * 60], monkeypatch, capsys)
    assert "not a work folder" in message(evaluate.main, [f"--init={tmp_path}"], monkeypatch, capsys)
    told = message(evaluate.main, [f"--init={run}", "--bad_images=skip"], monkeypatch, capsys)
    assert "--bad_images=skip" in told
    assert "not of a ViT" in told
    shutil.rmtree(run / "checkpoints")
    assert "no checkpoint" in message(evaluate.main, [f"--init={run}"], monkeypatch, capsys)
    (run / "config.json").write_text(json.dumps({"colour": "blue"}))
    assert "colour" in message(evaluate.main, [f"--init={run}"], monkeypatch, capsys)


def test_the_exit_code_of_the_process(tmp_path):
    code, output = finish(start(["bert-huge"]))
    assert code == 2
    assert output.count("\n") == 1
    assert "unknown preset" in output
