"""Images of different resolutions in one row: each once in an epoch, as it is alone; and what cannot be packed."""

import collections
import dataclasses
import itertools
import pickle
import re
from typing import Any

import jax
import numpy as np
import pytest

from core_jax.data import Examples, training_batches
from core_jax.embeddings import join_patches
from core_jax.errors import UserError
from tests.packed_noise import COUNT, NoisePictures, batch_of, layout_of, packed_rows
from tests.tiny_training import mesh_of
from tests.tiny_vit import CLASSES, CONFIG
from vit_jax.family import VitFamily
from vit_jax.image_files import BadImageError
from vit_jax.model_flops import whole_flops
from vit_jax.packed_images import PackedImages, grid_within
from vit_jax.presets import PRESETS
from vit_jax.pretraining import batch_shapes
from vit_jax.rows_config import row_layout


@pytest.fixture(scope="module")
def packed() -> PackedImages:
    return packed_rows(layout_of())


def test_every_image_once_in_every_epoch(packed):
    assert all(isinstance(examples, Examples) for examples in (packed, packed.images))
    seen_sides = collections.defaultdict(set)
    for epoch in (0, 1, 7):
        members = [packed.members(epoch, row) for row in range(len(packed))]
        assert sorted(itertools.chain(*members)) == list(range(COUNT))
        lengths, sides = packed.images.lengths(epoch), packed.images.sides(epoch)
        assert max(lengths[row].sum() for row in members) <= 40
        assert np.ptp(np.bincount(sides)[2:]) <= 1  # each resolution is as frequent as the others
        for index, side in enumerate(sides.tolist()):
            seen_sides[index].add(side)
    assert sum(len(sides) > 1 for sides in seen_sides.values()) > COUNT / 2  # and drawn anew


@pytest.mark.parametrize("changes", [{}, {"registers": 2}, {"class_token": False, "pooling": "mean"}])
def test_rows_hold_the_images_as_they_are_alone(changes):
    layout = layout_of(**changes)
    packed = packed_rows(layout, crop="inception", flip=0.5)
    seen = 0
    for row in range(len(packed)):
        found, images, position = packed.example(1, row), packed.members(1, row), 0
        for number, member in enumerate(images):
            image = packed.images.example(1, member)
            height, width = (side // CONFIG.patch_size for side in image["images"].shape[:2])
            assert height * width <= packed.images.sides(1)[member] ** 2
            own = slice(position + layout.front, position + layout.front + height * width)
            joined = join_patches(found["patches"][None, own], height, width, CONFIG.patch_size)
            np.testing.assert_array_equal(joined[0], image["images"])
            np.testing.assert_array_equal(found["places"][own], np.argwhere(np.ones((height, width))))
            assert (found["grids"][position : own.stop] == (height, width)).all()
            assert (found["segments"][position : own.stop] == number + 1).all()
            assert found["front"][position : own.start].tolist() == list(range(1, layout.front + 1))
            assert not found["front"][own].any()
            assert (found["starts"][number], found["labels"][number]) == (position, member % CLASSES)
            position = own.stop
        assert not found["segments"][position:].any()
        assert not found["front"][position:].any()
        assert found["weights"]["classes"].tolist() == [1] * len(images) + [0] * (layout.images - len(images))
        seen += len(images)
    assert seen == COUNT


def test_rows_are_a_function_of_seed_epoch_and_place(packed):
    """In another process, and from any step on."""
    copy = pickle.loads(pickle.dumps(packed))
    jax.tree.map(np.testing.assert_array_equal, copy.example(2, 3), packed.example(2, 3))
    options: dict[str, Any] = {"batch_size": 4, "seed": 1, "last_step": 6}
    whole, late = (list(training_batches(packed, mesh_of("data:1"), first_step=step, **options)) for step in (0, 4))
    jax.tree.map(np.testing.assert_array_equal, late, whole[4:])


def test_an_image_that_cannot_be_read_weighs_nothing():
    packed = packed_rows(layout_of(), NoisePictures(unreadable=3), bad_images="skip")
    weights = sum(packed.example(0, row)["weights"]["classes"].sum() for row in range(len(packed)))
    assert weights == COUNT - 1
    failing = packed_rows(layout_of(), NoisePictures(unreadable=3))
    row = next(row for row in range(len(failing)) if 3 in failing.members(0, row))
    with pytest.raises(BadImageError, match="picture 3 is no image: replace or delete it, or add --bad_images=skip"):
        failing.example(0, row)


def test_images_keep_their_shape():
    for side in (1, 2, 5, 16, 32):
        assert grid_within(7, 7, side**2) == (side, side)
        for width, height in [(4, 3), (3, 2), (16, 9), (2, 1), (3, 1), (1000, 1), (1, 10**9)]:
            rows, columns = grid_within(width, height, side**2)
            assert min(rows, columns) >= 1
            assert rows * columns <= side**2
            assert (columns, rows) == grid_within(height, width, side**2)
            if side >= 5 and width <= 3 * height <= 9 * width:
                assert rows * columns >= 0.8 * side**2
                # as near as whole patches allow: half of one on each side
                smallest, largest = (columns - 0.5) / (rows + 0.5), (columns + 0.5) / (rows - 0.5)
                assert smallest <= width / height <= largest


def config_of(**flags):
    """The configuration of vit-tiny with flags put in, as the command line does it."""
    flags, parts = {"packing": True, "resolutions": "4,8", "mixup": 0.0} | flags, {}
    for field in dataclasses.fields(PRESETS["vit-tiny"]):
        part: Any = getattr(PRESETS["vit-tiny"], field.name)
        if hasattr(part, "__dataclass_fields__"):
            own = {name: flags.pop(name) for name in tuple(flags) if hasattr(part, name)}
            parts[field.name] = dataclasses.replace(part, **own)
    return dataclasses.replace(PRESETS["vit-tiny"], **parts, **flags)


def test_planned_shapes_are_those_of_rows():
    config = config_of(global_batch_size=4, class_token=True)
    packed = packed_rows(row_layout(config.model, config.rows))
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), batch_shapes(config))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), batch_of(packed, 4)) == shapes
    family = VitFamily()
    assert (family.units(config), family.name_of_rows(config)) == (6, "packed rows")  # 68 tokens; 5, 10 or 17 an image
    layout = row_layout(config.model, config.rows)
    assert (layout.length, layout.images) == (68, 13)
    vit = family.model_ahead(config)
    assert family.model_flops(vit, batch_shapes(config)) == whole_flops(config.model, batch_shapes(config), 10)


BAD_FLAGS = {
    "no resolutions": ({"resolutions": ""}, "such as --resolutions=4,8"),
    "one resolution": ({"resolutions": "8"}, "such as --resolutions=4,8"),
    "the higher one first": ({"resolutions": "8,4"}, "the lower one first"),
    "sides that are no whole patches": ({"resolutions": "4,7"}, "two multiples of --patch_size=2"),
    "none at all": ({"resolutions": "0,4"}, "--resolutions=0,4"),
    "a row too short for the largest": (
        {"resolutions": "4,12", "sequence_length": 32},
        "--sequence_length=32 has no room for an image of --resolutions=4,12, which has up to 36 tokens: use "
        "--sequence_length=36 or more",
    ),
    "fewer tokens than none": ({"sequence_length": -1}, "--sequence_length=-1"),
    "resolutions of nothing": ({"packing": False}, "--resolutions=4,8 goes with --packing=True"),
    "mixup": ({"mixup": 0.4}, "add --mixup=0"),
    "cutmix": ({"cutmix": 1.0}, "add --cutmix=0"),
    "a masked autoencoder": ({"objective": "mae"}, "--objective=mae"),
    "a stem": ({"stem": "root", "patch_size": 1}, "--stem=root"),
    "stochastic depth": ({"stochastic_depth": 0.1}, "use --stochastic_depth=0"),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_bad_flags(case):
    changes, told = BAD_FLAGS[case]
    with pytest.raises(UserError, match=re.escape(told)):
        config_of(**changes)
