"""The commands on a ViT, from one to the next, as a user types them."""

import json
import pathlib
import signal

import jax
import numpy as np
import pytest
from PIL import Image

from core_jax.checkpoints import saved_steps
from core_jax.sharding import parse_mesh
from experiments import evaluate, judge_features, predict, pretrain, tabulate
from experiments.classify_images import drawing_names
from experiments.families import PRESETS, is_of_images
from tests.process_group import run_group
from tests.smooth_images import write_folder
from tests.test_bad_input import message
from tests.tiny_run import finish, start
from tests.tiny_vit import FLAGS, flags
from vit_jax.pretraining import open_trained

# Stochastic depth, mixing and the average are on: all must go on as if nothing had happened.
CHANGES = {"stochastic_depth": 0.2, "mixup": 0.5, "ema_decay": 0.9, "schedule": "constant"}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> pathlib.Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert pretrain.main(flags(folder, **CHANGES)) == 0
    return folder


def summary(folder: pathlib.Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def lines(folder: pathlib.Path, split: str) -> list[dict]:
    parsed = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in parsed if line["split"] == split]


def params_of(folder: pathlib.Path):
    return open_trained(str(folder), parse_mesh("data:1", devices=jax.devices()[:1]), report=pytest.fail).params


def assert_equal_runs(ours: pathlib.Path, theirs: pathlib.Path) -> None:
    """Averaged parameters to the bit, scores to the digit."""
    jax.tree.map(np.testing.assert_array_equal, params_of(ours), params_of(theirs))
    for name in ("loss", "accuracy", "top5_accuracy"):
        assert summary(ours)[name] == summary(theirs)[name]


def test_the_work_folder_is_complete(workdir):
    names = {"config.json", "metrics.jsonl", "summary.json", "tensorboard", "checkpoints", "classes.json"}
    assert names | {"loss.png", "confusion_matrix.png", "samples.png"} <= {path.name for path in workdir.iterdir()}
    assert [line["step"] for line in lines(workdir, "train")] == [8, 16, 24]
    assert [line["step"] for line in lines(workdir, "held_out")] == [16, 24]
    assert saved_steps(workdir / "checkpoints") == [8, 16, 24]
    assert is_of_images(str(workdir))
    assert json.loads((workdir / "classes.json").read_text()) == list("0123456789")
    found = summary(workdir)
    assert found["train_examples"] + found["held_out_examples"] == 1797
    assert (found["classes"], found["steps"], found["preset"]) == (10, FLAGS["steps"], "vit-tiny")
    assert 0.09 < found["majority_accuracy"] < 0.13
    assert found["frequency_loss"] == pytest.approx(np.log(10), abs=0.02)
    assert found["loss"] == lines(workdir, "held_out")[-1]["loss"]
    assert all(line["images_per_second"] > 0 for line in lines(workdir, "train"))


def test_a_run_with_sigmoid_loss_ends_in_a_table_and_is_scored_again(tmp_path, capsys):
    """Beside its loss stands that of the shares of the classes, each asked for by itself."""
    assert pretrain.main(flags(tmp_path / "run", loss="sigmoid", steps=2, warmup_steps=1)) == 0
    assert "majority_accuracy" in summary(tmp_path / "run")
    random = np.full(10, 0.1)
    expected = -np.sum(random * np.log(random) + (1 - random) * np.log(1 - random))
    assert summary(tmp_path / "run")["frequency_loss"] == pytest.approx(expected, abs=0.02)
    capsys.readouterr()
    assert evaluate.main([f"--init={tmp_path / 'run'}", "--mesh=data:1"]) == 0
    assert "loss (nats)" in capsys.readouterr().out
    assert tabulate.main([str(tmp_path / "run"), "--scores=loss,frequency_loss"]) == 0
    found = {name: value for name, value in summary(tmp_path / "run").items() if name != "frequency_loss"}
    (tmp_path / "run" / "summary.json").write_text(json.dumps(found))  # as runs of earlier versions left it
    assert pretrain.main(flags(tmp_path / "run", loss="sigmoid", steps=2, warmup_steps=1)) == 0


def test_the_average_is_what_is_kept_and_scored(workdir):
    mesh = parse_mesh("data:1", devices=jax.devices()[:1])
    trained = open_trained(str(workdir), mesh, report=pytest.fail)
    assert evaluate.main([f"--init={workdir}", f"--output={workdir / 'scores.json'}", "--mesh=data:1"]) == 0
    scores = json.loads((workdir / "scores.json").read_text())
    assert scores["accuracy"] == summary(workdir)["accuracy"]
    assert scores["loss"] == pytest.approx(summary(workdir)["loss"], rel=1e-6)
    assert sum(row["examples"] for row in scores["classes"].values()) == summary(workdir)["held_out_examples"]
    assert (workdir / "scores.png").exists()
    assert trained.config.training.ema_decay == 0.9


def test_scoring_has_the_flag_that_it_advises(workdir, tmp_path, monkeypatch, capsys):
    data = write_folder(tmp_path / "images", {"0": 2, "1": 3}, suffix="png")
    (tmp_path / "images" / "0" / "00.png").write_bytes(b"no picture")
    command = [f"--init={workdir}", f"--data={data}", "--mesh=data:1", f"--output={tmp_path / 'scores.json'}"]
    assert "00.png is no image" in message(evaluate.main, command, monkeypatch, capsys)
    assert evaluate.main([*command, "--bad_images=skip"]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert sum(row["examples"] for row in scores["classes"].values()) == 4
    assert scores["skipped_images"] == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "1 image could not be read and was left out: " in told


def test_skipped_images_are_counted_and_named_at_the_end(tmp_path, capsys):
    data = write_folder(tmp_path / "images", {"a": 20, "b": 20}, suffix="png")
    for number in range(5):
        (tmp_path / "images" / "a" / f"{number:02}.png").write_bytes(b"no picture")
    changes = {"data": data, "bad_images": "skip", "held_out": 0.3, "steps": 6, "warmup_steps": 1, "image_size": 8}
    assert pretrain.main(flags(tmp_path / "run", **changes)) == 0
    assert summary(tmp_path / "run")["skipped_images"] == 5
    told = "".join(capsys.readouterr().out.split())
    assert "5imagescouldnotbereadandwereleftout:" in told
    assert "a/00.png," in told
    assert "...(and2more)" in told
    command = [f"--init={tmp_path / 'run'}", f"--data={data}", "--held_out=0.3", "--mesh=data:1"]
    output = tmp_path / "judged.json"
    assert judge_features.main([*command, "--bad_images=skip", f"--output={output}"]) == 0
    judged = json.loads(output.read_text())
    assert judged["learnt_from"] + judged["scored"] == 40 - judged["skipped_images"] == 35
    assert "5imagescouldnotberead" in "".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_in_two_parts_it_is_the_same_run(workdir, tmp_path, capsys):
    folder = tmp_path / "run"
    assert pretrain.main(flags(folder, **CHANGES | {"steps": 16})) == 0
    assert pretrain.main(flags(folder, **CHANGES)) == 0
    assert "going on from step 16" in capsys.readouterr().out
    assert_equal_runs(folder, workdir)
    assert pretrain.main(flags(folder, **CHANGES)) == 0
    assert "is finished" in capsys.readouterr().out


def test_pictures_are_named_and_drawn_over(workdir, tmp_path, capsys):
    paths = [str(tmp_path / name) for name in ("0.png", "1.png", "other/0.png")]
    (tmp_path / "other").mkdir()
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    assert predict.main([f"--init={workdir}", *paths, "--top=10", f"--attention={tmp_path / 'seen'}"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [one["picture"] for one in found] == paths
    for one in found:
        assert sum(one["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        assert one["label"] == max(one["probabilities"], key=one["probabilities"].get)
    drawn = {"1-attention.png", f"{tmp_path.name}-0.png-attention.png", "other-0.png-attention.png"}
    assert {path.name for path in (tmp_path / "seen").iterdir()} == drawn


def test_every_picture_has_a_drawing_of_its_own():
    paths = ["/p/a/cat.png", "/p/b/cat.png", "/p/b/cat.jpg", "/p/dog.png", "/p/a/cat.png"]
    names = drawing_names([pathlib.Path(path) for path in paths])
    assert list(names.values()) == ["a-cat.png", "b-cat.png", "cat.jpg", "dog"]
    clash = drawing_names([pathlib.Path(path) for path in ("/x-y/z.png", "/x/y-z.png", "/q/z.png", "/q/y-z.png")])
    assert len(set(clash.values())) == 4


@pytest.mark.slow
def test_init_starts_from_another_run(workdir, tmp_path):
    changes = {"init": workdir, "learning_rate": 0.0, "steps": 1, "warmup_steps": 0}
    assert pretrain.main(flags(tmp_path / "second", **changes)) == 0
    jax.tree.map(np.testing.assert_array_equal, params_of(workdir), params_of(tmp_path / "second"))


@pytest.mark.slow
def test_meshes_and_accumulation_end_alike(workdir, tmp_path):
    elsewhere = {"mesh": "data:2,fsdp:2,tensor:2", "accumulation_steps": 2}
    for changes in ({}, elsewhere):
        same = {"mixup": 0.5, "cutmix": 1.0} | changes
        assert pretrain.main(flags(tmp_path / f"run{len(changes)}", **same)) == 0
    for ours, theirs in zip(lines(tmp_path / "run0", "train"), lines(tmp_path / "run2", "train"), strict=True):
        np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-5)


@pytest.mark.slow
def test_stopped_or_killed_the_same_command_goes_on(tmp_path):
    changes = CHANGES | {"steps": 400, "log_every": 4, "evaluate_every": 0}
    assert finish(start(flags(tmp_path / "whole", **changes, checkpoint_every=0)))[0] == 0
    # What SIGTERM stops saves first; what SIGKILL ends has what it last saved, and perhaps half of the next save.
    for sent, expected, checkpoint_every in ((signal.SIGTERM, 143, 0), (signal.SIGKILL, -signal.SIGKILL, 8)):
        folder = tmp_path / sent.name
        command = flags(folder, **changes, checkpoint_every=checkpoint_every)
        process = start(command)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step") and (sent == signal.SIGTERM or saved_steps(folder / "checkpoints")):
                break
        process.send_signal(sent)
        code, output = finish(process)
        assert code == expected, output
        code, output = finish(start(command))
        assert code == 0, output
        assert "going on from step" in output
        assert_equal_runs(folder, tmp_path / "whole")


@pytest.mark.slow
def test_a_masked_autoencoder_on_several_hosts_ends_with_its_pictures(tmp_path):
    """Parameters lie across the hosts, so that all of them must take part in what is drawn."""
    command = flags(tmp_path, objective="mae", mesh="fsdp:2", steps=2, warmup_steps=1, log_every=1, evaluate_every=0)
    codes, outputs = run_group(command, 2)
    assert codes == [0, 0], outputs
    assert (tmp_path / "reconstructions.png").stat().st_size > 1000


@pytest.mark.slow
def test_packed_images_in_two_parts_and_on_another_mesh(tmp_path):
    """The same run to the bit where it stopped between, up to rounding on a mesh; scored by the ordinary model."""
    changes = {"packing": True, "resolutions": "4,8", "mixup": 0, "schedule": "constant", "label_smoothing": 0.1}
    elsewhere = {"mesh": "data:4,fsdp:2", "accumulation_steps": 1}
    for name, parts in {
        "whole": [{}],
        "parts": [{"steps": 8}, {}],
        "mesh": [elsewhere],
    }.items():
        for part in parts:
            assert pretrain.main(flags(tmp_path / name, **changes | part)) == 0
    assert_equal_runs(tmp_path / "parts", tmp_path / "whole")
    for ours, theirs in zip(lines(tmp_path / "mesh", "train"), lines(tmp_path / "whole", "train"), strict=True):
        np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-5)
        assert 0 < ours["useful_flops"] < ours["useful_positions"] < 1
        assert ours["useful_positions"] == theirs["useful_positions"] > 0.9
        assert ours["useful_tokens_per_second"] > ours["images_per_second"] > 0
    found = summary(tmp_path / "whole")
    assert found["train_examples"] + found["held_out_examples"] == 1797
    assert found["train_rows"] < found["train_examples"] / 3
    assert evaluate.main([f"--init={tmp_path / 'whole'}", f"--output={tmp_path / 's.json'}", "--mesh=data:1"]) == 0
    assert json.loads((tmp_path / "s.json").read_text())["accuracy"] == found["accuracy"]


BAD_FLAGS = {
    "patches that do not divide the image": ({"patch_size": 3}, ("--image_size=8", "--patch_size=3", "use 6 or 9")),
    "data of an unknown kind": ({"data": "photos"}, ("photos", "images:DIR")),
    "a folder that is not there": ({"data": "images:/nowhere"}, ("/nowhere",)),
    "too few classes": ({"classes": 5}, ("--classes=5", "10 classes")),
    "colours of another number": ({"channels": 2}, ("--channels=2",)),
    "an average that forgets nothing": ({"ema_decay": 1.0}, ("--ema_decay=1.0",)),
    "packed images that are mixed": ({"packing": True, "resolutions": "4,8"}, ("--mixup=0.4", "add --mixup=0")),
    "packed images that repeat": ({"packing": True, "resolutions": "4,8", "repeats": 3}, ("use --repeats=1",)),
    "init that is not there": ({"init": "/nowhere"}, ("/nowhere", "work folder")),
    "fewer images than a batch": ({"global_batch_size": 4096}, ("images", "4096")),
    "mesh that does not divide the heads": ({"mesh": "tensor:8"}, ("tensor:8", "these work")),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_bad_flags(case, tmp_path, monkeypatch, capsys):
    changes, expected = BAD_FLAGS[case]
    told = message(pretrain.main, flags(tmp_path / "run", **changes), monkeypatch, capsys)
    assert all(part in told for part in expected), told
    assert not [path for path in (tmp_path / "run").glob("*") if path.name != ".lock"]


def test_bad_pictures(workdir, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for picture, expected in (("broken.png", "broken.png is no image"), ("none.png", "no such file")):
        told = message(predict.main, [f"--init={workdir}", str(tmp_path / picture)], monkeypatch, capsys)
        assert expected in told
    assert "no picture given" in message(predict.main, [f"--init={workdir}"], monkeypatch, capsys)


def test_presets_of_both_families_are_known(monkeypatch, capsys):
    assert {"bert-tiny", "vit-tiny", "vit-s16", "vit-b16-augreg", "vit-s16-deit"} <= PRESETS.keys()
    assert "did you mean vit-s16?" in message(pretrain.main, ["vit-s61"], monkeypatch, capsys)
