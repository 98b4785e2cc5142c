"""Where images come from: class folders, datasets of TFDS, the files of Fashion-MNIST; and what is wrong with them."""

import dataclasses
import gzip
import pickle
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from core_jax.errors import UserError
from tests.small_datasets import OwnDataset, write_rows
from tests.smooth_images import file_of, smooth_image, write_folder
from vit_jax import image_sets
from vit_jax.image_sets import check_images, open_image_set
from vit_jax.images_config import ImagesConfig
from vit_jax.picture_sources import FASHION_CLASSES

SHAPE: dict[str, Any] = {"height": 16, "width": 16, "channels": 3}


def seen(examples):
    """The images of all examples."""
    return {examples.example(0, index)["images"].tobytes() for index in range(len(examples))}


def test_class_folders_of_several_formats(tmp_path):
    data = write_folder(tmp_path / "photos", {"cat": 8})
    write_folder(tmp_path / "photos", {"dog": 8}, suffix="png")
    (tmp_path / "photos" / "dog" / "more").mkdir()
    (tmp_path / "photos" / "dog" / "more" / "A.WEBP").write_bytes(file_of(smooth_image(9, 9), "WEBP"))
    for other in ("notes.txt", "._00.png"):
        (tmp_path / "photos" / "dog" / other).write_bytes(b"no image")
    check_images(ImagesConfig(data=data))
    found = open_image_set(ImagesConfig(data=data), **SHAPE, seed=0)
    assert found.classes == ("cat", "dog")
    assert len(found.train) + len(found.held_out) == 17
    labels = [part.example(0, i)["labels"] for part in (found.train, found.held_out) for i in range(len(part))]
    assert np.bincount(labels).tolist() == [8, 9]
    more = open_image_set(ImagesConfig(data=data, held_out=0.7), **SHAPE, seed=0)
    assert seen(found.held_out) <= seen(more.held_out)


@pytest.mark.parametrize("scored", ["validation", "val", "valid", "test"])
def test_folders_to_train_on_and_to_score_on(tmp_path, scored):
    write_folder(tmp_path / "photos" / "train", {"a": 3, "b": 2})
    write_folder(tmp_path / "photos" / scored, {"b": 2, "a": 1})
    found = open_image_set(ImagesConfig(data=f"images:{tmp_path}/photos"), **SHAPE, seed=0)
    assert (len(found.train), [found.held_out.example(0, i)["labels"] for i in range(3)]) == (5, [0, 1, 1])


def test_a_folder_of_its_own_to_score_on(tmp_path):
    images = ImagesConfig(
        data=write_folder(tmp_path / "photos", {"train": 3, "car": 2}),  # which are classes
        validation_data=write_folder(tmp_path / "others", {"car": 2, "train": 2}),
    )
    found = open_image_set(images, **SHAPE, seed=0)
    assert (found.classes, len(found.train), len(found.held_out)) == (("car", "train"), 5, 4)


def test_datasets_of_tfds(tmp_path):
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=["cat", "dog"]),
    }
    builder = OwnDataset(features, data_dir=tmp_path, file_format="array_record")
    rows = [{"image": file_of(smooth_image(20 + n, 20, seed=n), "JPEG"), "label": n % 2} for n in range(30)]
    write_rows(builder, {"train": rows[:25], "test": rows[25:], "unlabelled": [rows[0] | {"label": -1}]})
    images = ImagesConfig(data="tfds:own_dataset", data_dir=str(tmp_path))
    check_images(images)
    found = open_image_set(images, **SHAPE, seed=0)
    assert (found.classes, len(found.train), len(found.held_out)) == (("cat", "dog"), 25, 5)
    for number in range(25, 30):  # TFDS shuffles rows
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rows[number]["image"])
    same = f"images:{tmp_path}/photos"
    folder = open_image_set(ImagesConfig(data=same, validation_data=same), **SHAPE, seed=0).held_out
    ours, theirs = (
        {part.example(0, index)["images"].tobytes(): int(part.example(0, index)["labels"]) for index in range(5)}
        for part in (found.held_out, folder)
    )
    assert ours == theirs
    assert seen(pickle.loads(pickle.dumps(found.train))) == seen(found.train)  # as it goes to worker processes
    for change, message in (
        ({"data_split": "trian"}, "has no split 'trian'"),
        ({"validation_split": "train"}, "would be trained on and scored on"),
        ({"label_column": "class"}, "no column of classes named 'class': 'label'"),
    ):
        with pytest.raises(UserError, match=message):
            check_images(dataclasses.replace(images, **change))
    unlabelled = ImagesConfig(data="tfds:own_dataset", data_dir=str(tmp_path), validation_split="unlabelled")
    with pytest.raises(UserError, match="example 0 of unlabelled of tfds:own_dataset has no label"):
        open_image_set(unlabelled, **SHAPE, seed=0).held_out.example(0, 0)


def write_idx(path, values):
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


def test_files_of_fashion_mnist(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    for part, count in (("train", 6), ("t10k", 3)):
        pixels = random.integers(0, 256, (count, 28, 28))
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", pixels)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", np.arange(count))
    images = ImagesConfig(data=f"fashion_mnist:{tmp_path}")
    check_images(images)
    found = open_image_set(images, height=28, width=28, channels=1, seed=0)
    assert (len(found.train), len(found.held_out), found.classes) == (6, 3, FASHION_CLASSES)
    example = found.held_out.example(0, 2)
    assert example["labels"] == 2
    np.testing.assert_array_equal(example["images"][..., 0], pixels[2])
    monkeypatch.setattr(image_sets, "FASHION_FOLDER", tmp_path)
    assert len(open_image_set(ImagesConfig(data="fashion_mnist"), **SHAPE, seed=0).train) == 6
    damaged = tmp_path / "t10k-images-idx3-ubyte.gz"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte\.gz is not a file of images"):
        open_image_set(images, **SHAPE, seed=0)
    damaged.unlink()
    with pytest.raises(UserError, match=r"has no t10k-images.*apt install dataset-fashion-mnist"):
        check_images(images)
    monkeypatch.setattr(image_sets, "FASHION_FOLDER", tmp_path / "missing")
    with pytest.raises(UserError, match=r"neither in .* nor a dataset of TFDS here"):
        check_images(ImagesConfig(data="fashion_mnist", data_dir=str(tmp_path)))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "has no folders; expected images:DIR"),
        ({"a": 3}, "has one folder, 'a'; expected"),
        ({"a": 3, "b": 0, "c": 0}, "no images in 2 of 3 class folders: 'b', 'c'"),
        ({"a": 1, "b": 0}, "no images in 1 of 2 class folders: 'b'"),
    ],
)
def test_folders_that_are_no_classes(tmp_path, counts, message):
    (tmp_path / "photos").mkdir()
    data = write_folder(tmp_path / "photos", counts)
    with pytest.raises(UserError, match=message):
        open_image_set(ImagesConfig(data=data), **SHAPE, seed=0)


def test_mistakes_in_places(tmp_path):
    loose = tmp_path / "loose"
    loose.mkdir()
    (loose / "one.jpg").write_bytes(file_of(smooth_image(8, 8), "JPEG"))
    few = write_folder(tmp_path / "few", {"a": 1, "b": 1})
    others = write_folder(tmp_path / "others", {"a": 1, "z": 1})
    for settings, message in (
        ({"data": f"images:{loose}"}, "has no folders, and 1 images that are in none"),
        ({"data": f"images:{loose}/one.jpg"}, "is a file; expected images:DIR"),
        ({"data": f"images:{tmp_path}/nowhere"}, "is not there; expected images:DIR"),
        ({"data": "photos/"}, "For a folder, type: images:photos/"),
        ({"data": "digit"}, "Did you mean digits"),
        ({"data": "images:"}, "Type: images:DIR"),
        ({"data": "tfds:no_such_images"}, "is not among the datasets prepared"),
        ({"validation_data": few}, "goes with --data=images:DIR"),
        ({"data": few, "validation_data": "digits"}, "expected images:DIR"),
    ):
        with pytest.raises(UserError, match=message):
            check_images(dataclasses.replace(ImagesConfig(), **settings))
    with pytest.raises(UserError, match=r"leaves \d to train on"):
        open_image_set(ImagesConfig(data=few, held_out=0.999), **SHAPE, seed=0)
    with pytest.raises(UserError, match="nothing to train on for: 'z'"):
        open_image_set(ImagesConfig(data=few, validation_data=others), **SHAPE, seed=0)
