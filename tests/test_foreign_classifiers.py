"""ViTs of other programs with a classifier: named, scored and shown as they stand, by the protocol that they bring."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from core_jax.errors import UserError
from core_jax.sharding import parse_mesh
from experiments import evaluate, predict
from tests.test_vit_weights import CONFIG
from tests.vit_peers import random_vit
from vit_jax.foreign_classifiers import open_classifier
from vit_jax.numpy_weights import write_npz
from vit_jax.weights import IMAGENET, PREPROCESSOR, write_hf

COLOURED = dataclasses.replace(CONFIG, channels=3)
LABELS = ["cat", "dog", "owl"]


@pytest.fixture
def pictures(tmp_path):
    """Folders of two pictures each, whose names no model knows."""
    random = np.random.default_rng(0)
    for name in ("n01", "n02", "n03"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(2):
            pixels = random.integers(0, 256, (21, 34, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    return tmp_path / "images"


def given(capsys, *arguments):
    """The JSON lines of a prediction."""
    assert predict.main([*map(str, arguments)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


def test_names_and_probabilities_are_those_of_the_peer(tmp_path, pictures, capsys):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    mean, deviation = IMAGENET
    model = dataclasses.replace(random_vit(COLOURED, 3, labels=LABELS), mean=mean, deviation=deviation)
    write_hf(tmp_path / "model", model)
    [file, *_] = sorted(pictures.rglob("*.png"))
    [found] = given(capsys, f"--init=hf:{tmp_path}/model", file)
    processor = transformers.ViTImageProcessorPil.from_pretrained(tmp_path / "model")
    model = transformers.ViTForImageClassification.from_pretrained(tmp_path / "model").eval()
    with torch.inference_mode():
        shares = model(**processor(Image.open(file), return_tensors="pt")).logits.softmax(-1)[0]
    expected = {model.config.id2label[index]: float(share) for index, share in enumerate(shares)}
    assert found["probabilities"] == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("kind", ["hf", "npz"])
def test_folders_that_it_does_not_name_are_in_the_order_of_its_outputs(tmp_path, pictures, capsys, kind):
    model = random_vit(COLOURED, 3, labels=LABELS)
    if kind == "hf":
        write_hf(tmp_path / "model", model)
        init = f"hf:{tmp_path}/model"
    else:
        write_npz(tmp_path / "model.npz", model)
        init = f"npz:{tmp_path}/model.npz?image_size=8x12"
    files = sorted(pictures.rglob("*.png"))
    said = [line["label"] for line in given(capsys, f"--init={init}", *files)]
    names = LABELS if kind == "hf" else ["LABEL_0", "LABEL_1", "LABEL_2"]
    right = np.mean([names.index(label) == number // 2 for number, label in enumerate(said)])
    arguments = [f"--init={init}", f"--data=images:{pictures}", f"--output={tmp_path}/scores.json", "--mesh=data:1"]
    assert evaluate.main(arguments) == 0
    assert "they are taken in their order" in " ".join(capsys.readouterr().out.split())
    assert json.loads((tmp_path / "scores.json").read_text())["accuracy"] == pytest.approx(right)


def test_the_protocol_is_that_of_its_folder(tmp_path):
    write_hf(tmp_path / "model", random_vit(COLOURED, 3, labels=LABELS))
    file = tmp_path / "model" / PREPROCESSOR
    fields = json.loads(file.read_text())
    changes = {
        "resample": 2,
        "size": {"shortest_edge": 20},
        "do_center_crop": True,
        "crop_size": {"height": 16, "width": 12},
    }
    file.write_text(json.dumps(fields | changes))
    mesh = parse_mesh("data:1", devices=jax.devices()[:1])
    found = open_classifier(f"hf:{tmp_path}/model", mesh, print)
    assert (found.config.images.interpolation, found.config.images.eval_resize) == ("bilinear", 20)
    assert found.config.model.image_size == "16x12"
    assert found.params["vit"]["embeddings"]["position"].shape[1] == 4 * 3 + 1


def test_what_cannot_be_used_as_it_stands(tmp_path, pictures):
    write_hf(tmp_path / "plain", random_vit(COLOURED, None))
    write_hf(tmp_path / "model", random_vit(COLOURED, 3, labels=LABELS))
    with pytest.raises(UserError, match=r"has no classifier: type .*finetune"):
        predict.main([f"--init=hf:{tmp_path}/plain", str(next(pictures.rglob("*.png")))])
    with pytest.raises(UserError, match="--data=: expected images"):
        evaluate.main([f"--init=hf:{tmp_path}/model"])
    with pytest.raises(UserError, match="is a model of another program"):
        evaluate.main(["--init=tf:nowhere"])
