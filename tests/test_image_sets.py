"""Images as examples: every source, each example a function of (seed, epoch, index), and what is wrong with them."""

import dataclasses
import gzip
import multiprocessing
import os
from typing import Any

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from core_jax.data import Examples, evaluation_batches, training_batches
from core_jax.errors import UserError
from core_jax.sharding import parse_mesh
from tests.small_datasets import OwnDataset, write_rows
from tests.smooth_images import file_of, smooth_image
from vit_jax import image_sets
from vit_jax.image_sets import check_images, open_image_set
from vit_jax.images_config import ImagesConfig
from vit_jax.picture_sources import FASHION_CLASSES
from vit_jax.skipped_images import SkippedImages

SHAPE: dict[str, Any] = {"height": 16, "width": 16, "channels": 3}
STRONG: dict[str, Any] = {
    "crop": "inception",
    "flip": 0.5,
    "randaugment": "2,10",
    "random_erasing": 0.5,
    "crop_padding": 2,
}


def write_folder(folder, counts, *, suffix="jpg"):
    """A folder with {class: number} pictures."""
    for place, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            form = Image.registered_extensions()[f".{suffix}"]
            content = file_of(smooth_image(24 + number, 20, seed=100 * place + number), form)
            (folder / name / f"{number:02}.{suffix}").write_bytes(content)
    return f"images:{folder}"


def test_digits_are_dealt_by_their_pixels():
    found = open_image_set(ImagesConfig(), height=8, width=8, channels=1, seed=0)
    assert isinstance(found.train, Examples)
    assert (len(found.train), len(found.held_out)) == (1412, 385)
    assert found.classes == tuple("0123456789")
    images = [
        {part.example(0, index)["images"].tobytes() for index in range(len(part))}
        for part in (found.train, found.held_out)
    ]
    assert not images[0] & images[1]
    labels = [int(found.held_out.example(0, index)["labels"]) for index in range(385)]
    assert np.bincount(labels).min() >= 25
    example = found.held_out.example(0, 7)
    assert example["images"].shape == (8, 8, 1)
    assert (example["images"].min(), example["images"].max()) == (-1, 1)
    assert example["weights"] == {"classes": 1}


@pytest.fixture(scope="module")
def other_process():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield pool


def draw(examples, positions):
    return {position: examples.example(*position)["images"] for position in positions}


def test_an_example_is_a_function_of_seed_epoch_and_index(tmp_path, other_process):
    data = write_folder(tmp_path / "photos", {"a": 4, "b": 4})
    images = ImagesConfig(data=data, held_out=0.3, **STRONG)
    examples = open_image_set(images, **SHAPE, seed=3).train
    positions = [(epoch, index) for epoch in range(2) for index in range(len(examples))]
    here = draw(examples, positions)
    np.random.seed(5)  # whatever state the process has
    there = other_process.apply(draw, (examples, positions[::-1]))
    for position in positions:
        np.testing.assert_array_equal(here[position], there[position])
    assert len({image.tobytes() for image in here.values()}) == len(positions)
    other_seed = draw(open_image_set(images, **SHAPE, seed=4).train, positions)
    assert all((other_seed[position] != here[position]).any() for position in positions)


def test_scored_images_do_not_change(tmp_path):
    data = write_folder(tmp_path / "photos", {"a": 6, "b": 6})
    found = [open_image_set(ImagesConfig(data=data, **STRONG), **SHAPE, seed=seed).held_out for seed in (1, 2)]
    for index in range(len(found[0])):
        np.testing.assert_array_equal(found[0].example(0, index)["images"], found[1].example(3, index)["images"])


@pytest.mark.parametrize("devices", [1, 8])
def test_each_scored_image_counts_once(devices):
    examples = open_image_set(ImagesConfig(), height=8, width=8, channels=1, seed=0).held_out
    mesh = parse_mesh("data:-1", jax.devices()[:devices])
    batches = list(evaluation_batches(examples, mesh, batch_size=48))  # 385 = 8 x 48 + 1
    weights = np.concatenate([batch["weights"]["classes"] for batch in batches])
    labels = np.concatenate([batch["labels"] for batch in batches])
    assert [batch["images"].shape for batch in batches] == [(48, 8, 8, 1)] * 9
    assert weights.tolist() == [1] * 385 + [0] * 47
    assert labels[:385].tolist() == [int(examples.example(0, index)["labels"]) for index in range(385)]


@pytest.mark.slow
def test_batches_do_not_depend_on_worker_processes(tmp_path):
    data = write_folder(tmp_path / "photos", {"a": 9, "b": 9})
    (tmp_path / "photos" / "a" / "04.jpg").write_bytes(b"no image")
    mesh, skipped = parse_mesh("data:-1", jax.devices()[:1]), SkippedImages(str(tmp_path / "skipped"))
    images = ImagesConfig(data=data, bad_images="skip", **STRONG)
    examples = open_image_set(images, **SHAPE, seed=0, skipped=skipped).train
    found = [
        list(training_batches(examples, mesh, batch_size=8, seed=0, first_step=0, last_step=4, workers=workers))
        for workers in (0, 2)
    ]
    for ours, theirs in zip(*found, strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert len(skipped.messages()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_wrong_is_named_from_any_process(tmp_path, workers):
    data = write_folder(tmp_path / "photos", {"a": 5, "b": 5})
    (tmp_path / "photos" / "a" / "02.jpg").write_bytes(b"no image")
    examples = open_image_set(ImagesConfig(data=data, validation_data=data), **SHAPE, seed=0).train
    mesh = parse_mesh("data:-1", jax.devices()[:1])
    with pytest.raises(UserError, match=r"a/02\.jpg is no image of a format that Pillow reads: replace or delete it"):
        list(training_batches(examples, mesh, batch_size=5, seed=0, first_step=0, last_step=2, workers=workers))


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
    kept = {image.tobytes() for image in draw(found.held_out, [(0, i) for i in range(len(found.held_out))]).values()}
    assert kept <= {more.held_out.example(0, i)["images"].tobytes() for i in range(len(more.held_out))}


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


def test_datasets_of_tfds(tmp_path, other_process):
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
    there = other_process.apply(draw, (found.train, [(1, 2)]))
    np.testing.assert_array_equal(there[1, 2], found.train.example(1, 2)["images"])
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
    np.testing.assert_array_equal(np.rint((example["images"][..., 0] + 1) * 127.5), pixels[2])
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


def test_bad_images_end_the_run_or_count_for_nothing(tmp_path, other_process):
    data = write_folder(tmp_path / "photos", {"a": 5, "b": 5})
    broken = tmp_path / "photos" / "b" / "03.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    notes = SkippedImages(str(tmp_path / "skipped"))
    fails, skips = (
        open_image_set(
            ImagesConfig(data=data, validation_data=data, bad_images=bad, **STRONG), **SHAPE, seed=0, skipped=notes
        )
        for bad in ("fail", "skip")
    )
    for part in (fails.train, fails.held_out):
        with pytest.raises(UserError, match=r"photos/b/03\.jpg cannot be read.*--bad_images=skip"):
            part.example(0, 8)
    assert notes.messages() == []
    for epoch in range(2):
        examples = [skips.train.example(epoch, index) for index in range(10)]
        assert [example["weights"]["classes"] for example in examples] == [1] * 8 + [0, 1]
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), examples[8]) == jax.tree.map(
            lambda leaf: (leaf.shape, leaf.dtype), examples[0]
        )
    other_process.apply(draw, (skips.held_out, [(0, 8)]))  # whichever process meets it
    [message] = notes.messages()
    assert "photos/b/03.jpg cannot be read" in message
    os.remove(broken)
    assert skips.train.example(0, 8)["weights"]["classes"] == 0
    assert "No such file" in "".join(notes.messages())


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


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({}, {"channels": 2}, "--channels=2: images have 3"),
        ({"normalization": "imagenet"}, {"channels": 1}, "use --normalization=half"),
        ({"eval_resize": 15}, {}, "--eval_resize=15 is less than the images' 16 pixels"),
    ],
)
def test_shapes_that_cannot_be_had(settings, shape, message):
    with pytest.raises(UserError, match=message):
        open_image_set(ImagesConfig(**settings), **SHAPE | shape, seed=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"held_out": 1.0},
        {"held_out": 0.0},
        {"least_area": 0.0},
        {"flip": 1.5},
        {"crop_padding": -1},
        {"randaugment": "2"},
        {"randaugment": "2,11"},
        {"eval_crop": 0.9, "eval_resize": 256},
    ],
)
def test_settings_that_make_no_sense(settings):
    with pytest.raises(UserError, match=rf"--{next(iter(settings))}="):
        ImagesConfig(**settings)
