"""Each operation of RandAugment at its extremes, against pixels computed by hand."""

import math

import numpy as np
import pytest
from PIL import Image

from tests.smooth_images import smooth_image
from vit_jax.randaugment import OPERATIONS, randaugment

SIZE = 224


class Drawn(np.random.Generator):
    """Gives what a test wants to be drawn."""

    def __init__(self, uniform=0.0, integers=(0, 0)):
        super().__init__(np.random.PCG64())
        self._uniform, self._integers = uniform, list(integers)

    def random(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._uniform

    def integers(self, *limits):  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._integers.pop(0)


def apply(name, image, strength, *, uniform=0.0, integers=(0, 0)):
    return np.asarray(OPERATIONS[name](image, strength, Drawn(uniform, integers))).astype(int)


@pytest.fixture(scope="module")
def image():
    return smooth_image(SIZE, SIZE, seed=1)


def pixels(image):
    return np.asarray(image).astype(int)


def test_tables_of_values(image):
    found = pixels(image)
    np.testing.assert_array_equal(apply("invert", image, 1), 255 - found)
    np.testing.assert_array_equal(apply("posterize", image, 1), found & 0b11110000)
    np.testing.assert_array_equal(apply("posterize", image, 0), np.zeros_like(found))
    np.testing.assert_array_equal(apply("solarize", image, 1), found)  # from 256 on, where no value is
    np.testing.assert_array_equal(apply("solarize", image, 0.5), np.where(found < 128, found, 255 - found))
    np.testing.assert_array_equal(apply("solarize", image, 0), 255 - found)
    added = np.where(found < 128, np.minimum(found + 110, 255), found)
    np.testing.assert_array_equal(apply("solarize_add", image, 1), added)
    np.testing.assert_array_equal(apply("solarize_add", image, 0), found)


def test_blends_reach_from_a_tenth_to_almost_twice(image):
    found = pixels(image)
    grey = np.asarray(image.convert("L")).astype(int)[..., None]
    smooth = found.copy()
    weights = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    windows = np.lib.stride_tricks.sliding_window_view(found, (3, 3), axis=(0, 1))
    smooth[1:-1, 1:-1] = np.floor((windows * weights).sum((-2, -1)) + 0.5)
    plain = {"color": grey, "brightness": 0, "contrast": int(grey.mean() + 0.5), "sharpness": smooth}
    for name, other in plain.items():
        for strength, factor in ((0, 0.1), (1, 1.9)):
            expected = np.clip(other + factor * (found - other), 0, 255)
            assert np.abs(apply(name, image, strength) - expected).max() <= 1, (name, strength)


def test_contrast_and_histograms_are_stretched():
    narrow = Image.fromarray(np.array([[50, 100, 150]], np.uint8))
    assert apply("auto_contrast", narrow, 1).tolist() == [[0, 127, 255]]
    crowded = Image.fromarray(np.repeat(np.arange(16, dtype=np.uint8), 17).reshape(16, 17))
    np.testing.assert_array_equal(apply("equalize", crowded, 1), pixels(crowded) * 17)  # as many of each from 0 to 255


@pytest.mark.parametrize(("uniform", "sign"), [(0.1, 1), (0.9, -1)])
def test_movements(image, uniform, sign):
    found, rows, columns = pixels(image), *np.mgrid[:SIZE, :SIZE]
    angle = math.radians(30 * sign)
    x, y = columns + 0.5 - SIZE / 2, rows + 0.5 - SIZE / 2
    sources = {
        "translate_x": (rows, columns + sign * 100),
        "translate_y": (rows + sign * 100, columns),
        "shear_x": (rows, np.floor(columns + 0.5 + 0.3 * sign * (rows + 0.5)).astype(int)),
        "shear_y": (np.floor(rows + 0.5 + 0.3 * sign * (columns + 0.5)).astype(int), columns),
        "rotate": (
            np.floor(math.sin(angle) * x + math.cos(angle) * y + SIZE / 2).astype(int),
            np.floor(math.cos(angle) * x - math.sin(angle) * y + SIZE / 2).astype(int),
        ),
    }
    for name, (row, column) in sources.items():
        inside = (row >= 0) & (row < SIZE) & (column >= 0) & (column < SIZE)
        expected = np.where(inside[..., None], found[row % SIZE, column % SIZE], 128)
        moved = apply(name, image, 1, uniform=uniform)
        assert (moved == expected).all(-1).mean() > 0.999, name  # exact halves may fall to either side
        np.testing.assert_array_equal(apply(name, image, 0, uniform=uniform), found)


def test_cutout_covers_a_square_in_grey(image):
    found = pixels(image)
    expected = found.copy()
    expected[60:140, 0:50] = 128  # around (10, 100), 40 to each side
    np.testing.assert_array_equal(apply("cutout", image, 1, integers=(10, 100)), expected)
    np.testing.assert_array_equal(apply("cutout", image, 0, integers=(10, 100)), found)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_every_operation_keeps_size_and_kind(mode):
    image = smooth_image(30, 20, mode=mode)
    assert len(OPERATIONS) == 16
    for name, operation in OPERATIONS.items():
        for strength in (0, 0.5, 1):
            changed = operation(image, strength, np.random.default_rng(0))
            assert (changed.size, changed.mode) == ((30, 20), mode), name


def test_a_spread_draws_the_strength_of_each_operation(monkeypatch):
    met = []
    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, lambda image, strength, random: met.append(strength) or image)
    random = np.random.default_rng(0)
    for _ in range(500):
        randaugment(smooth_image(4, 4), 2, 9, random, 0.5)
    assert max(met) == 1.0  # no operation is stronger than its extreme
    assert abs(np.mean(met) - 0.9) < 0.01
    assert 0.03 < np.std(met) < 0.05
    assert len(set(met)) > 900


def test_operations_are_drawn_evenly(monkeypatch):
    met = []
    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, lambda image, strength, random, name=name: met.append(name) or image)
    random = np.random.default_rng(0)
    for _ in range(1600):
        randaugment(smooth_image(4, 4), 2, 10, random)
    counts = [met.count(name) for name in OPERATIONS]
    assert len(met) == 3200
    assert max(abs(count - 200) for count in counts) < 5 * math.sqrt(200)
