"""Fine-tuning of ViT: what is taken over from a checkpoint, and whole runs."""

import dataclasses
import json
import os
import pathlib

import chex
import jax
import numpy as np
import pytest

from core_jax.errors import UserError
from core_jax.sharding import by_path, parse_mesh
from experiments import convert, evaluate, finetune, finetune_images, judge_features, pretrain
from experiments.console import value_of
from tests.tiny_vit import FLAGS
from tests.vit_peers import random_vit
from vit_jax.config import VitConfig
from vit_jax.model import VitForClassification
from vit_jax.numpy_weights import read_npz, write_npz
from vit_jax.position_tables import interpolate
from vit_jax.presets import PRESETS
from vit_jax.starting_weights import adopt_architecture, load_init, open_start
from vit_jax.tasks import initial_params
from vit_jax.weights import IMAGENET, write_hf

CONFIG = VitConfig(
    width=12, depth=2, heads=3, mlp_width=24, image_size="8", patch_size=4, layer_scale=0.5, initializer="normal"
)
NAMES = ("x", "y", "z")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "hf"
    config = dataclasses.replace(CONFIG, gelu="erf", pooling="token_and_mean")
    mean, deviation = IMAGENET
    write_hf(path, dataclasses.replace(random_vit(config, 3, labels=list(NAMES)), mean=mean, deviation=deviation))
    return f"hf:{path}"


def loaded(init, classes, **changes):
    """Parameters to start from and fresh ones, of a model with the sizes of the checkpoint and these changes."""
    notes: list[str] = []
    config = adopt_architecture(dataclasses.replace(PRESETS["vit-b16"], init=init), notes.append).model
    model = VitForClassification(dataclasses.replace(config, **changes), len(classes))
    mesh = parse_mesh("data:1", devices=jax.devices()[:1])
    fresh = initial_params(model)(jax.random.key(0))
    return by_path(load_init(init, model, classes, fresh, mesh, notes.append)), by_path(fresh), notes


def test_a_checkpoint_sets_the_sizes(folder):
    notes: list[str] = []
    config = adopt_architecture(dataclasses.replace(PRESETS["vit-b16"], init=folder), notes.append)
    found = (config.model.width, config.model.depth, config.model.patch_size, config.model.gelu)
    assert found == (12, 2, 4, "erf")
    assert config.model.image_size == PRESETS["vit-b16"].model.image_size
    assert config.images.normalization == "imagenet"  # as DINOv2 was trained
    assert "width 12" in notes[0]
    assert "normalization imagenet" in notes[0]


@pytest.mark.parametrize("scan_layers", [False, True])
def test_all_is_taken_over(folder, scan_layers):
    params, fresh, notes = loaded(folder, NAMES, image_size="8", scan_layers=scan_layers)
    assert params.keys() == fresh.keys()
    same = [path for path in params if np.array_equal(params[path], fresh[path])]
    assert same == []
    assert not any("fresh" in note or "interpolated" in note for note in notes)


def test_other_classes_and_larger_images(folder):
    there, _, _ = loaded(folder, NAMES, image_size="8")
    params, fresh, notes = loaded(folder, ("u", "v"), image_size="8x16")
    position = "vit/embeddings/position"
    expected = interpolate(np.asarray(there[position]), (2, 2), (2, 4))
    np.testing.assert_allclose(params[position], expected, atol=1e-6)
    for path in fresh:
        if path.startswith("classifier/"):
            np.testing.assert_array_equal(params[path], fresh[path])
        elif path != position:
            np.testing.assert_array_equal(params[path], there[path])
    assert "drawn fresh: classifier" in notes
    assert any("interpolated" in note for note in notes)


def test_the_same_number_of_other_classes(folder):
    params, fresh, _ = loaded(folder, ("u", "v", "w"), image_size="8")
    np.testing.assert_array_equal(params["classifier/dense/kernel"], fresh["classifier/dense/kernel"])


def test_the_layer_before_the_classifier_may_go(tmp_path):
    config = dataclasses.replace(CONFIG, layer_scale=0.0, representation=True)
    write_npz(tmp_path / "vit.npz", random_vit(config, 3))
    params, _, notes = loaded(f"npz:{tmp_path}/vit.npz", NAMES, image_size="8")
    assert not any("representation" in path for path in params)
    assert "not used: representation" in notes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--init=hf:/nowhere", "--data=digits"], "/nowhere"),
        (["--init=onnx:x", "--data=digits"], "hf:DIR, npz:FILE, timm:FILE"),
        (["--data=digits"], "--init=: expected hf:DIR"),
        (["--init=x"], "--data=: expected images:DIR"),
    ],
)
def test_mistakes(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        finetune.main(["--task=image_classification", *arguments])
    assert not os.path.exists("runs")


@pytest.mark.parametrize("task", [["--task", "image_classification"], ["--task=image_classification"]])
def test_the_task_is_no_flag_of_training(task):
    assert finetune_images.without_task(["--steps=1", *task, "--seed=2"]) == ["--steps=1", "--seed=2"]
    assert value_of("--task", ["--seed=2", *task]) == finetune_images.TASK
    assert value_of("--init", task) == ""


@pytest.mark.slow
def test_from_a_masked_autoencoder_to_classes(tmp_path, capsys):
    """Without labels, then with them, then judged as it is."""
    flags = [f"--{name}={value}" for name, value in FLAGS.items()]
    learnt, tuned = f"{tmp_path}/mae", f"{tmp_path}/tuned"
    assert pretrain.main(["vit-tiny", "--objective=mae", f"--workdir={learnt}", *flags]) == 0
    summary = json.loads(pathlib.Path(f"{learnt}/summary.json").read_text())
    assert summary["loss"] < summary["blind_loss"]
    assert os.path.getsize(f"{learnt}/reconstructions.png") > 1000
    with pytest.raises(UserError, match="knows no classes"):
        evaluate.main([f"--init={learnt}"])
    sizes = ("width", "depth", "heads", "mlp_width")
    training = [f"--{name}={value}" for name, value in FLAGS.items() if name not in sizes]
    recipe = [
        "--optimizer=adamw",
        "--learning_rate=3e-3",
        "--steps=120",
        "--global_batch_size=32",
        "--crop=whole",
        "--flip=0",
    ]
    command = ["--task=image_classification", f"--init={learnt}", "--data=digits", f"--workdir={tuned}", *training]
    assert finetune.main([*command, *recipe]) == 0
    summary = json.loads(pathlib.Path(f"{tuned}/summary.json").read_text())
    assert summary["accuracy"] > 2 * summary["majority_accuracy"]
    assert convert.main([tuned, f"npz:{tmp_path}/tuned.npz"]) == 0
    carried, start = (
        read_npz(f"{tmp_path}/tuned.npz"),
        open_start(tuned, parse_mesh("data:1", jax.devices()[:1]), print),
    )
    chex.assert_trees_all_equal(carried.params, jax.device_get(start.params))
    output = f"{tmp_path}/judged.json"
    assert judge_features.main([f"--init={tuned}", "--mesh=data:8", f"--output={output}"]) == 0
    judged = json.loads(pathlib.Path(output).read_text())
    assert judged["pretrained"]["nearest_neighbours"] > 3 * summary["majority_accuracy"]
    assert "drawn fresh: classifier" in capsys.readouterr().out
