"""Images as examples: each a function of (seed, epoch, index); bad files and shapes that cannot be had."""

import multiprocessing
import os
from typing import Any

import jax
import numpy as np
import pytest

from core_jax.data import Examples, evaluation_batches, training_batches
from core_jax.errors import UserError
from core_jax.sharding import parse_mesh
from tests.smooth_images import write_folder
from vit_jax.image_sets import open_image_set
from vit_jax.images_config import ImagesConfig
from vit_jax.skipped_images import SkippedImages

SHAPE: dict[str, Any] = {"height": 16, "width": 16, "channels": 3}
STRONG: dict[str, Any] = {
    "crop": "inception",
    "flip": 0.5,
    "randaugment": "2,10",
    "random_erasing": 0.5,
    "crop_padding": 2,
}


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
    assert (example["images"].min(), example["images"].max()) == (0, 255)
    assert example["weights"] == {"classes": 1}


def test_few_images_of_each_class_are_drawn_by_the_seed():
    def trained_on(seed, count):
        images = ImagesConfig(images_per_class=count)
        return open_image_set(images, height=8, width=8, channels=1, seed=seed)

    few = trained_on(seed=0, count=3)
    labels = [int(few.train.example(0, index)["labels"]) for index in range(len(few.train))]
    assert np.bincount(labels).tolist() == [3] * 10
    assert len(few.held_out) == 385  # all of them
    pixels, again, other = (
        [data.train.example(0, index)["images"].tobytes() for index in range(30)]
        for data in (few, trained_on(seed=0, count=3), trained_on(seed=1, count=3))
    )
    assert pixels == again
    assert pixels != other
    with pytest.raises(UserError, match=r"--images_per_class=200: there are 1\d\d images of \d to train on"):
        trained_on(seed=0, count=200)


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


def test_repeated_images_stand_in_one_batch_each_changed_in_its_own_way():
    images = ImagesConfig(repeats=3, crop="inception")
    found = open_image_set(images, height=8, width=8, channels=1, seed=0)
    mesh = parse_mesh("data:-1", jax.devices()[:1])
    options = {"batch_size": 12, "seed": 0, "first_step": 0, "last_step": 2}
    for batch in training_batches(found.train, mesh, **options):
        labels, pixels = np.asarray(batch["labels"]).reshape(4, 3), np.asarray(batch["images"]).reshape(4, 3, -1)
        assert (labels == labels[:, :1]).all()
        assert all(len({one.tobytes() for one in three}) == 3 for three in pixels)
    scored = next(iter(evaluation_batches(found.held_out, mesh, batch_size=12)))
    assert np.asarray(scored["labels"]).tolist() == [int(found.held_out.example(0, n)["labels"]) for n in range(12)]


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


@pytest.mark.parametrize(("bad", "purpose"), [("train", "to train on"), ("validation", "to score on")])
def test_of_bad_images_alone_nothing_is_left(tmp_path, bad, purpose):
    for part in ("train", "validation"):
        write_folder(tmp_path / part, {"a": 2, "b": 2})
    for file in (tmp_path / bad).glob("*/*.jpg"):
        file.write_bytes(b"no image")
    images = ImagesConfig(data=f"images:{tmp_path}", bad_images="skip")
    with pytest.raises(UserError, match=rf"none of the 4 images {purpose} can be read.*a/00\.jpg is no image"):
        open_image_set(images, **SHAPE, seed=0)


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
        {"randaugment": "2,9,"},
        {"repeats": 0},
        {"eval_crop": 0.9, "eval_resize": 256},
    ],
)
def test_settings_that_make_no_sense(settings):
    with pytest.raises(UserError, match=rf"--{next(iter(settings))}="):
        ImagesConfig(**settings)
