import dataclasses
import json
import os
import subprocess
import sys

import pytest

from bert_jax.config import PRESETS, BertPretraining
from core_jax import workdir as workdir_lib
from core_jax.errors import UserError
from core_jax.run_lock import lock
from core_jax.workdir import (
    Recorder,
    check_space,
    claim_workdir,
    filling,
    read_config,
    save_config,
    write_atomically,
)

CONFIG = PRESETS["bert-tiny"]


def with_training(**changes):
    return dataclasses.replace(CONFIG, training=dataclasses.replace(CONFIG.training, **changes))


def contents(folder):
    return {path: path.is_file() and path.read_bytes() for path in sorted(folder.rglob("*"))}


@pytest.fixture
def run(tmp_path):
    """A work folder that holds a run."""
    folder = tmp_path / "run"
    claim_workdir(folder, CONFIG)
    save_config(folder, CONFIG)
    return folder


def test_writing_replaces_the_whole_file(tmp_path):
    file = tmp_path / "a.txt"
    for text in ("a long text\n", "short", ""):
        write_atomically(file, text)
        assert file.read_text() == text
        assert os.listdir(tmp_path) == ["a.txt"]


def test_a_write_that_is_cut_off_leaves_the_old_text(tmp_path):
    file = tmp_path / "a.txt"
    write_atomically(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(file, "new, up to here \ud800")
    assert file.read_text() == "old"


def test_readers_never_see_a_part(tmp_path, monkeypatch):
    file, seen = tmp_path / "a.txt", []
    write_atomically(file, "old")
    path_type = type(workdir_lib.epath.Path(file))
    write_bytes = path_type.write_bytes

    def spy(self, data, *args, **kwargs):
        write_bytes(self, data, *args, **kwargs)
        seen.append(file.read_text())  # all is written, nothing is renamed yet

    monkeypatch.setattr(path_type, "write_bytes", spy)
    write_atomically(file, "new")
    assert (seen, file.read_text()) == (["old"], "new")


def test_a_fresh_folder_is_made(tmp_path):
    claim_workdir(tmp_path / "a" / "b", CONFIG)
    assert contents(tmp_path / "a" / "b") == {}
    claim_workdir(tmp_path / "a" / "b", CONFIG)  # empty is as good as new
    (tmp_path / "a" / "b" / ".lock").touch()
    claim_workdir(tmp_path / "a" / "b", CONFIG)


def test_a_run_of_the_same_configuration_is_found_and_left_alone(run):
    before = contents(run)
    for config in (CONFIG, with_training(steps=9, mesh="fsdp:-1", checkpoint_every=7)):
        claim_workdir(run, config)
    assert contents(run) == before
    assert read_config(run, BertPretraining) == CONFIG


def test_another_configuration_is_refused_with_both_values(run):
    before = contents(run)
    other = with_training(seed=3, global_batch_size=128, steps=9)
    with pytest.raises(UserError, match="another configuration") as caught:
        claim_workdir(run, dataclasses.replace(other, text=dataclasses.replace(CONFIG.text, data="text:a.txt")))
    assert [line.strip() for line in str(caught.value).splitlines() if line.startswith("  ")] == [
        "--data: 'sample' there, 'text:a.txt' now",
        "--global_batch_size: 64 there, 128 now",
        "--seed: 0 there, 3 now",
    ]
    assert contents(run) == before


def test_a_file_or_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"--workdir=.*file is a file; expected a folder"):
        claim_workdir(tmp_path / "file", CONFIG)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"--workdir=.*folder is not empty and holds no run"):
        claim_workdir(tmp_path / "folder", CONFIG)
    assert len(contents(tmp_path)) == 3


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file" / "below", "/proc/runs/here"):  # not even the superuser can
        with pytest.raises(UserError, match=rf"--workdir={folder} cannot be written: "):
            claim_workdir(folder, CONFIG)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"preset": "bert-tiny"}', '{"model": 3}', "\ud800"])
def test_a_config_that_cannot_be_read_is_named(run, text):
    (run / "config.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(UserError, match=r"config.json"):
        read_config(run, BertPretraining)


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match=r"is not a work folder: it has no config.json"):
        read_config(tmp_path, BertPretraining)


def test_a_new_folder_is_emptied_after_a_mistake_and_a_run_is_not(tmp_path, run):
    def fail(folder):
        with filling(folder, CONFIG):
            assert read_config(folder, BertPretraining) == CONFIG
            (folder / "corpus").mkdir()
            (folder / "corpus" / "part").write_text("half")
            raise UserError("a mistake")

    new = tmp_path / "new"
    new.mkdir()
    for folder, left in ((new, []), (run, ["config.json", "corpus"])):
        with pytest.raises(UserError, match="a mistake"):
            fail(folder)
        assert sorted(os.listdir(folder)) == left


def test_elastic_changes_are_written_down(run):
    changed = with_training(steps=9)
    with filling(run, changed):
        pass
    assert read_config(run, BertPretraining) == changed


LOCKING = (
    "import sys; from core_jax.errors import UserError; from core_jax.run_lock import lock\n"
    "try:\n"
    "    with lock(sys.argv[1]): print('mine')\n"
    "except UserError as error: print(error)\n"
)


def second_process(folder):
    done = subprocess.run([sys.executable, "-c", LOCKING, str(folder)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_second_process_is_refused(tmp_path):
    with lock(tmp_path):
        assert second_process(tmp_path).startswith(f"--workdir={tmp_path} is in use by another process")
    assert second_process(tmp_path) == "mine"


def test_space(tmp_path):
    free = workdir_lib.shutil.disk_usage(tmp_path).free
    check_space(tmp_path, free // 2)
    check_space("gs://bucket/runs", 10**30)
    with pytest.raises(UserError, match=rf"--workdir={tmp_path}: the disk has [\d,]+ MB left, .* --keep_checkpoints"):
        check_space(tmp_path, 10**18)


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def record(folder, first, last):
    recorder = Recorder(folder, first)
    for step in range(first + 1, last + 1):
        recorder.write(step, "train", {"loss": step / 10})
    recorder.write(last, "held_out", {"loss": 1.5, "mlm_accuracy": 0.25})
    recorder.close()


def test_metrics_are_lines_of_json(tmp_path):
    record(tmp_path, 0, 2)
    assert lines_of(tmp_path) == [
        {"step": 1, "split": "train", "loss": 0.1},
        {"step": 2, "split": "train", "loss": 0.2},
        {"step": 2, "split": "held_out", "loss": 1.5, "mlm_accuracy": 0.25},
    ]
    [board] = (tmp_path / "tensorboard").iterdir()
    assert board.name.startswith("events.out.tfevents")
    assert b"held_out/mlm_accuracy" in board.read_bytes()


def test_metrics_are_on_disk_at_once(tmp_path):
    recorder = Recorder(tmp_path, 0)
    recorder.write(1, "train", {"loss": 0.5})
    assert lines_of(tmp_path) == [{"step": 1, "split": "train", "loss": 0.5}]
    recorder.close()


def test_a_run_that_goes_on_writes_no_line_twice(tmp_path):
    record(tmp_path, 0, 5)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "split": "tr')  # a kill in the middle of a line
    record(tmp_path, 3, 4)
    steps = [(line["step"], line["split"]) for line in lines_of(tmp_path)]
    assert steps == [(1, "train"), (2, "train"), (3, "train"), (4, "train"), (4, "held_out")]
