"""What is cut out of pictures, and how: against Pillow's and torchvision's arithmetic, and in distribution."""

import math

import numpy as np
import pytest
from PIL import Image

from tests.smooth_images import file_of, smooth_image
from vit_jax.image_files import open_image
from vit_jax.image_transforms import (
    RESAMPLING,
    View,
    cut,
    erase,
    evaluation_image,
    inception_box,
    size_before_crop,
    training_image,
)
from vit_jax.images_config import ImagesConfig
from vit_jax.normalization import normalised

VIEW = View(32, 32, 3)
ALWAYS_VIEW = lambda width, height: VIEW  # noqa: E731
GENERATOR = np.random.default_rng


def opened(image, form="PNG", **options):
    return open_image(file_of(image, form, **options), "a picture")


def test_a_part_is_cropped_then_resized():
    image, box = smooth_image(90, 70, seed=3), (11, 5, 71, 66)
    for resampling in Image.Resampling:
        expected = image.crop(box).resize((32, 32), resampling)
        np.testing.assert_array_equal(np.asarray(cut(opened(image), box, VIEW, resampling)), np.asarray(expected))
    jpeg = Image.fromarray(np.asarray(opened(image, "JPEG").image))
    found = cut(opened(image, "JPEG"), box, VIEW, Image.Resampling.BILINEAR)  # not twice the view: decoded in full
    np.testing.assert_array_equal(
        np.asarray(found), np.asarray(jpeg.crop(box).resize((32, 32), Image.Resampling.BILINEAR))
    )


@pytest.mark.parametrize("box", [(0, 0, 501, 375), (37, 11, 411, 303), (120, 33, 395, 371)])
def test_a_large_part_of_a_jpeg_is_almost_the_same_from_a_smaller_decoding(box):
    image = smooth_image(501, 375, seed=4)
    found = cut(opened(image, "JPEG", quality=95), box, VIEW, Image.Resampling.BICUBIC)
    expected = image.crop(box).resize((32, 32), Image.Resampling.BICUBIC)
    difference = np.abs(np.asarray(found).astype(int) - np.asarray(expected))
    assert difference.mean() < 2  # of 255; one pixel of the smaller decoding aside would be 7 and more
    aside = image.crop((box[0] - 8, box[1], box[2] - 8, box[3])).resize((32, 32), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(aside).astype(int) - np.asarray(expected)).mean() > 2


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (32, 32)),  # all of it, as google-research/vision_transformer
        ({"eval_crop": 1.0}, (45, 32)),
        ({"eval_crop": 0.875}, (50, 36)),  # as timm: 32 / 0.875 = 36.6 for the shorter side
        ({"eval_resize": 37}, (52, 37)),  # as big_vision's resize_small
    ],
)
def test_evaluation_protocols(options, size):
    image, images = smooth_image(99, 70, seed=5), ImagesConfig(**options)
    assert size_before_crop(99, 70, images, VIEW) == size
    for name in ("bicubic", "bilinear"):
        resized = np.asarray(image.resize(size, RESAMPLING[name]))
        left, top = round((size[0] - 32) / 2), round((size[1] - 32) / 2)
        found = evaluation_image(opened(image), ImagesConfig(interpolation=name, **options), VIEW)
        np.testing.assert_array_equal(found, resized[top : top + 32, left : left + 32])


def test_views_need_not_be_square():
    images = ImagesConfig(eval_crop=0.5)
    assert size_before_crop(100, 100, images, View(16, 32, 3)) == (64, 64)
    assert size_before_crop(100, 400, ImagesConfig(eval_crop=1.0), View(16, 32, 3)) == (32, 128)
    assert size_before_crop(400, 100, ImagesConfig(eval_resize=20), View(16, 32, 3)) == (80, 20)
    assert evaluation_image(opened(smooth_image(50, 41)), images, View(16, 32, 1)).shape == (16, 32, 1)


def test_slender_pictures_do_not_fill_the_memory():
    stripe = np.zeros((1, 40_000, 3), np.uint8)
    stripe[:, 19_990:20_010] = 200  # resized whole, this would be 1.3 million pixels across
    found = evaluation_image(opened(Image.fromarray(stripe)), ImagesConfig(eval_resize=32), VIEW)
    assert (found == 200).all()
    image = smooth_image(15, 240, seed=6)  # not too slender: resized whole
    expected = np.asarray(image.resize((32, 512), Image.Resampling.BICUBIC))[240:272]
    np.testing.assert_array_equal(evaluation_image(opened(image), ImagesConfig(eval_crop=1.0), VIEW), expected)
    longer = np.asarray(smooth_image(15, 240, seed=6).resize((15, 600)))
    found = evaluation_image(opened(Image.fromarray(longer)), ImagesConfig(eval_crop=1.0), VIEW)
    expected = np.asarray(Image.fromarray(longer).resize((32, 1280), Image.Resampling.BICUBIC))[624:656]
    assert np.abs(found.astype(int) - expected).mean() < 1  # only roundings of the place differ


@pytest.mark.parametrize("least_area", [0.05, 0.5])
def test_random_parts_are_spread_as_they_should(least_area):
    random, width, height, count = GENERATOR(0), 400, 300, 4000
    boxes = np.array([inception_box(width, height, least_area, random) for _ in range(count)])
    across, down = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= width).all()
    assert (boxes[:, 3] <= height).all()
    areas = across * down / (width * height)
    assert least_area * 0.97 < areas.min() < least_area * 1.1
    assert areas.max() > 0.97
    ratios = across / down
    assert 0.74 < ratios.min() < 0.77
    assert 1.31 < ratios.max() < 1.35
    # Where every shape fits, shapes are spread evenly in their logarithm and places over all of the picture.
    small = areas < 0.3
    if small.any():
        logarithms = np.log(ratios[small])
        assert abs(logarithms.mean()) < 5 * (math.log(4 / 3) / math.sqrt(3)) / math.sqrt(small.sum())
        places = boxes[small, 0] / (width - across[small])
        assert abs(places.mean() - 0.5) < 5 / math.sqrt(12 * small.sum())


def test_of_very_long_pictures_the_middle_is_taken():
    assert inception_box(1000, 10, 0.9, GENERATOR(0)) == (493, 0, 506, 10)
    assert inception_box(9, 800, 0.9, GENERATOR(0)) == (0, 394, 9, 406)
    assert inception_box(1, 1, 0.05, GENERATOR(0)) == (0, 0, 1, 1)


def test_images_are_mirrored_as_often_as_asked():
    image = smooth_image(32, 32)
    mirrored = np.asarray(image)[:, ::-1]
    for probability, expected in ((0.0, 0), (1.0, 50), (0.5, 25)):
        images = ImagesConfig(flip=probability)
        found = [training_image(opened(image), images, ALWAYS_VIEW, GENERATOR(seed)) for seed in range(50)]
        count = sum(np.array_equal(each, mirrored) for each in found)
        assert count == sum(not np.array_equal(each, np.asarray(image)) for each in found)
        assert abs(count - expected) <= (15 if probability == 0.5 else 0)


def test_images_are_moved_within_a_black_border():
    image, seen = Image.new("RGB", (32, 32), "white"), set()
    for seed in range(60):
        images = ImagesConfig(crop_padding=2)
        found = training_image(opened(image), images, ALWAYS_VIEW, GENERATOR(seed))[..., 0]
        rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
        assert (found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == 255).all()
        seen |= {(32 - len(rows), 32 - len(columns))}
    assert {missing for pair in seen for missing in pair} == {0, 1, 2}


def test_a_box_is_filled_with_noise():
    areas = []
    for seed in range(300):
        image = np.full((40, 60, 3), 7, np.float32)
        erase(image, GENERATOR(seed))
        rows, columns = (np.flatnonzero((image != 7).any(axis)) for axis in ((1, 2), (0, 2)))
        box = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (box != 7).all()
        assert (image == 7).sum() == image.size - box.size
        assert abs(box.mean()) < 5 / math.sqrt(box.size)
        areas.append(box.size / image.size)
    assert 0.015 < min(areas) < 0.03
    assert 0.3 < max(areas) < 0.35
    untouched = training_image(opened(smooth_image(32, 32)), ImagesConfig(), ALWAYS_VIEW, GENERATOR(0))
    untouched = normalised(untouched, "half", 3)
    changed = training_image(opened(smooth_image(32, 32)), ImagesConfig(random_erasing=1.0), ALWAYS_VIEW, GENERATOR(0))
    assert 0.01 < (untouched != changed).mean() < 0.4
