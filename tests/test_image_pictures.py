"""The grid of images that shows what the model sees."""

import numpy as np
import pytest
from PIL import Image

from core_jax.data import Order
from tests.smooth_images import smooth_image
from vit_jax.image_pictures import GAP, LETTERS, grid_picture, samples_picture, shown
from vit_jax.image_sets import open_image_set
from vit_jax.images_config import NORMALIZATIONS, ImagesConfig
from vit_jax.normalization import normalised


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_normalisation_is_taken_back(normalization):
    image = np.asarray(smooth_image(12, 9))
    found = shown([np.asarray(normalised(image, normalization, 3)), image], normalization)
    np.testing.assert_array_equal(found, [image, image])


@pytest.mark.parametrize("channels", [1, 3])
def test_images_stand_in_rows(tmp_path, channels):
    images = np.random.default_rng(0).integers(0, 256, (10, 120, 130, channels), np.uint8)
    grid_picture(tmp_path / "grid.png", images, ["a", "an endless name of a class", "", "ü", "名", *"abcde"])
    found = np.asarray(Image.open(tmp_path / "grid.png"))
    down, across = 120 + GAP + LETTERS + 4, 130 + GAP
    assert found.shape == (2 * down + GAP, 8 * across + GAP, 3)
    for number, image in enumerate(images):
        top, left = GAP + number // 8 * down, GAP + number % 8 * across
        shown_there = found[top : top + 120, left : left + 130]
        np.testing.assert_array_equal(shown_there, np.broadcast_to(image, (120, 130, 3)))
        below = found[top + 120 : top + 120 + LETTERS + 4, left : left + 130]
        assert (below < 128).any() == (number != 2)  # its name, within its place
    gaps = found[:, GAP + 130 : across]
    assert (gaps == 255).all()


def test_first_examples_are_shown_larger(tmp_path):
    train = open_image_set(ImagesConfig(), height=8, width=8, channels=1, seed=0).train
    samples_picture(tmp_path / "samples.png", train, tuple("0123456789"), normalization="half", seed=5, count=3)
    found = np.asarray(Image.open(tmp_path / "samples.png"))
    first = np.kron(shown([train.example(*Order(len(train), 5)(0))["images"]], "half")[0, ..., 0], np.ones((14, 14)))
    np.testing.assert_array_equal(found[GAP : GAP + 112, GAP : GAP + 112, 0], first)
