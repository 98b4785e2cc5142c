"""The commands, from one to the next, as a user types them."""

import json
import pathlib

import jax
import numpy as np
import pytest

from bert_jax.config import BertPretraining
from bert_jax.pretraining import open_trained
from core_jax.checkpoints import saved_steps
from core_jax.peaks import PEAK_FLOPS
from core_jax.sharding import parse_mesh
from core_jax.workdir import read_config
from experiments import evaluate, fill_masks, predict, pretrain
from tests.tiny_run import FLAGS, flags, write_text


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> pathlib.Path:
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(scope="module")
def workdir(text, tmp_path_factory) -> pathlib.Path:
    """A finished run on all eight devices, each of which is said to reach 10^12 operations a second."""
    folder = tmp_path_factory.mktemp("runs") / "a run"  # with a space, as people have them
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PEAK_FLOPS, f"^{jax.devices()[0].device_kind}$", 1e12)
        assert pretrain.main(flags(folder, text, mesh="data:-1")) == 0
    return folder


def summary(folder: pathlib.Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def lines(folder: pathlib.Path, split: str) -> list[dict]:
    parsed = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in parsed if line["split"] == split]


def test_the_work_folder_is_complete(workdir):
    names = {"config.json", "metrics.jsonl", "summary.json", "tensorboard", "checkpoints", "tokenizer", "corpus"}
    assert names | {"filled_masks.json"} <= {path.name for path in workdir.iterdir()}
    assert [line["step"] for line in lines(workdir, "train")] == [8, 16, 24]
    assert [line["step"] for line in lines(workdir, "held_out")] == [16, 24]
    assert saved_steps(workdir / "checkpoints") == [8, 16, 24]
    assert any((workdir / "tensorboard").iterdir())
    config = read_config(workdir, BertPretraining)
    assert (config.model.width, config.training.steps) == (FLAGS["width"], FLAGS["steps"])
    expected = {"loss", "mlm_accuracy", "nsp_accuracy", "unigram_accuracy", "unigram_loss", "versions", "command"}
    assert expected <= summary(workdir).keys()
    assert summary(workdir)["loss"] == lines(workdir, "held_out")[-1]["loss"]


def test_the_share_of_the_peak_that_was_used(workdir):
    for line in lines(workdir, "train"):
        assert line["mfu"] == pytest.approx(line["model_flops_per_second"] / 8e12)
        # What is computed beside what is needed: padding, places without a token to predict.
        assert line["mfu"] / line["hardware_flops_utilization"] == pytest.approx(line["useful_flops"], rel=1e-6)
        assert 0 < line["useful_flops"] < line["useful_positions"] < 1
    assert 0 < summary(workdir)["mfu"] < summary(workdir)["hardware_flops_utilization"]


def test_the_time_is_split(workdir):
    for found in (*lines(workdir, "train"), summary(workdir)):
        assert sum(value for name, value in found.items() if name.endswith("_share")) == pytest.approx(1)
        assert 0 < found["goodput"] < 1
        assert found["compile_share"] > 0


def test_a_relative_work_folder(text, tmp_path, monkeypatch):
    """As everybody types it, and as the default is."""
    monkeypatch.chdir(tmp_path)
    arguments = [flag for flag in flags(tmp_path, text, steps=2) if not flag.startswith("--workdir=")]
    assert pretrain.main(arguments) == 0
    assert predict.main(["--init=runs/bert-tiny", "w1 [MASK]"]) == 0
    assert pretrain.main([*arguments, "--steps=3"]) == 0


def test_evaluate_prints_the_same_scores(workdir, capsys):
    assert evaluate.main([f"--init={workdir}"]) == 0
    output = capsys.readouterr().out
    for name in ("mlm_accuracy", "unigram_accuracy", "nsp_accuracy"):
        assert f"{100 * summary(workdir)[name]:.2f} %" in output
    assert f"{summary(workdir)['mlm_loss']:.4f}" in output


def test_the_same_command_again_is_finished_and_changes_nothing(workdir, text, capsys):
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    assert pretrain.main(flags(workdir, text)) == 0
    assert "is finished" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


def test_the_source_is_not_needed_any_more(workdir, text, tmp_path):
    moved = text.rename(tmp_path / "elsewhere.txt")
    try:
        assert pretrain.main(flags(workdir, text)) == 0
    finally:
        moved.rename(text)


def test_predict_gives_probabilities_for_every_mask(workdir, capsys):
    assert predict.main([f"--init={workdir}", "--top=3", "w1 [MASK] w2 [MASK]"]) == 0
    output = capsys.readouterr().out
    assert "[MASK] 1" in output
    assert "[MASK] 2" in output
    trained = open_trained(str(workdir), parse_mesh("data:1"), report=pytest.fail)
    for length in (1, 30):  # padded to two different lengths
        tokens = fill_masks.encode("[MASK] " + "w1 " * length, trained.tokenizer, 40)
        np.testing.assert_allclose(fill_masks.probabilities(trained, tokens).sum(axis=-1), 1, rtol=1e-5)


@pytest.mark.slow
def test_more_steps_go_on_and_another_mesh_too(text, tmp_path, capsys):
    folder = tmp_path / "run"
    assert pretrain.main(flags(folder, text, steps=8)) == 0
    assert pretrain.main(flags(folder, text, steps=16, mesh="data:2,fsdp:2,tensor:2", accumulation_steps=2)) == 0
    assert "going on from step 8" in capsys.readouterr().out
    assert summary(folder)["steps"] == 16
    assert [line["step"] for line in lines(folder, "train")] == [8, 16]


@pytest.mark.slow
def test_a_packed_run_goes_on_with_the_same_batches_on_any_mesh(text, tmp_path, capsys):
    changes = {"packing": True, "sequence_length": 40, "schedule": "constant", "steps": 16}
    assert pretrain.main(flags(tmp_path / "whole", text, **changes)) == 0
    assert "pairs a row" in capsys.readouterr().out
    assert pretrain.main(flags(tmp_path / "parts", text, **changes | {"steps": 8})) == 0
    elsewhere = {"mesh": "data:2,fsdp:2,tensor:2", "accumulation_steps": 2}
    assert pretrain.main(flags(tmp_path / "parts", text, **changes | elsewhere)) == 0
    for ours, theirs in zip(lines(tmp_path / "whole", "train"), lines(tmp_path / "parts", "train"), strict=True):
        np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-5)
        np.testing.assert_allclose(ours["useful_positions"], theirs["useful_positions"], rtol=1e-6)
        assert ours["useful_positions"] > 0.9
    assert summary(tmp_path / "whole")["train_examples"] > summary(tmp_path / "whole")["train_rows"]


def test_a_run_repeats_to_the_digit(workdir, text, tmp_path):
    assert pretrain.main(flags(tmp_path / "again", text, mesh="data:-1")) == 0
    one, other = summary(workdir), summary(tmp_path / "again")
    for name in ("loss", "mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy", "unigram_loss", "unigram_accuracy"):
        assert one[name] == other[name]
    for found in (*lines(tmp_path / "again", "train"), other):  # run without a known peak: nothing is said of it
        assert found["model_flops_per_second"] > 0
        assert not {"mfu", "hardware_flops_utilization"} & found.keys()


def test_meshes_end_alike(workdir, text, tmp_path):
    assert pretrain.main(flags(tmp_path / "many", text, mesh="data:2,tensor:2,fsdp:2")) == 0
    for ours, theirs in zip(lines(workdir, "train"), lines(tmp_path / "many", "train"), strict=True):
        np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-5)


def test_init_starts_from_another_run(workdir, text, tmp_path):
    """The second phase of the original recipe: longer sequences, a fresh optimizer, the same vocabulary."""
    changes = {"init": workdir, "sequence_length": 40, "learning_rate": 0.0, "steps": 1}
    assert pretrain.main(flags(tmp_path / "second", text, **changes)) == 0
    mesh = parse_mesh("data:1")
    first, second = (open_trained(str(folder), mesh, report=pytest.fail) for folder in (workdir, tmp_path / "second"))
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", ["sentencepiece", "sentencepiece-bpe"])
def test_other_vocabularies(tokenizer, text, tmp_path, capsys):
    folder = tmp_path / "run"
    assert pretrain.main(flags(folder, text, tokenizer=tokenizer, steps=2, whole_word_masking=True)) == 0
    assert predict.main([f"--init={folder}", "w1 [MASK] w2"]) == 0
    given = pretrain.main(flags(tmp_path / "given", text, tokenizer=folder / "tokenizer", steps=2))
    assert given == 0
    assert "error" not in capsys.readouterr().out
