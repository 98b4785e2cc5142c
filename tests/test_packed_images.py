"""Images of different resolutions in one row: each is seen, counted and learnt from as if it were alone."""

import collections
import dataclasses
import itertools
import pickle
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from core_jax.data import Examples, training_batches
from core_jax.embeddings import join_patches
from core_jax.errors import UserError
from core_jax.sharding import global_batch, tree_shardings
from tests.same_training import assert_same
from tests.tiny_training import QUICK, mesh_of
from tests.tiny_vit import CLASSES, CONFIG, model, random_params
from vit_jax.image_files import BadImageError, OpenedImage
from vit_jax.image_sets import ImageExamples, ImageSet
from vit_jax.image_transforms import View
from vit_jax.images_config import ImagesConfig
from vit_jax.model import VitForClassification
from vit_jax.model_flops import step_flops, useful_flops, whole_flops
from vit_jax.packed_images import PackedImages, grid_within, pack
from vit_jax.picture_sources import Picture
from vit_jax.position_tables import resize_model
from vit_jax.presets import PRESETS
from vit_jax.pretraining import batch_shapes
from vit_jax.rows_config import RowLayout, RowsConfig, row_layout
from vit_jax.skipped_images import SkippedImages
from vit_jax.supervision import SupervisionConfig
from vit_jax.tasks import images_of, supervised_loss

SHAPES = ((8, 8), (20, 10), (6, 15))  # width, height
COUNT, ROWS, KEY = 41, 8, jax.random.key(0)
SUPERVISION = SupervisionConfig(label_smoothing=0.1, loss="sigmoid")


@dataclasses.dataclass(frozen=True)
class NoisePictures:
    """Grey noise of different shapes."""

    count: int = COUNT
    unreadable: int = -1
    classes: tuple[str, ...] = tuple("abcdefg")

    def __len__(self) -> int:
        return self.count

    def picture(self, index: int) -> Picture:
        if index == self.unreadable:
            raise BadImageError(f"picture {index} is no image")
        width, height = SHAPES[index % len(SHAPES)]
        pixels = np.random.default_rng(index).integers(0, 256, (height, width), dtype=np.uint8)
        return Picture(OpenedImage(Image.fromarray(pixels), f"{index}"), index % CLASSES)


def layout_of(**changes) -> RowLayout:
    rows = RowsConfig(packing=True, resolutions="4,8", sequence_length=40)
    return row_layout(dataclasses.replace(CONFIG, **changes), rows)


def packed_rows(layout: RowLayout, pictures=NoisePictures(), **images) -> PackedImages:
    view = View(CONFIG.height, CONFIG.width_of_image, 1)
    examples = ImageExamples(pictures, ImagesConfig(**images), view, seed=5, train=True, skipped=SkippedImages())
    found = pack(ImageSet(examples, examples, pictures.classes), layout).train
    assert isinstance(found, PackedImages)
    return found


@pytest.fixture(scope="module")
def packed() -> PackedImages:
    return packed_rows(layout_of())


def batch_of(packed: PackedImages, rows: int = ROWS) -> dict:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *(packed.example(0, row) for row in range(rows)))


def alone(packed: PackedImages, row: int) -> list[dict]:
    """The images of a row of epoch 0, unpacked."""
    return [packed.images.example(0, member) for member in packed.members(0, row)]


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


def logits_alone(vit: VitForClassification, params: dict, image: np.ndarray) -> np.ndarray:
    """What the ordinary model says of one image, its learned positions interpolated to the size of that."""
    config, params = resize_model(vit.config, params, f"{image.shape[0]}x{image.shape[1]}")
    run = jax.jit(VitForClassification(config, vit.classes).apply, compiler_options=QUICK)
    found: Any = run({"params": params}, jnp.asarray(image[None]))
    return np.asarray(found[0])


def packed_logits(vit: VitForClassification, params: dict, *batches: dict) -> list[np.ndarray]:
    run = jax.jit(lambda batch: vit.apply({"params": params}, images_of(batch)), compiler_options=QUICK)
    return [np.asarray(run(batch)) for batch in batches]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pooling": "attention", "registers": 2, "positions": "sincos"},
        pytest.param({"pooling": "mean", "class_token": False, "representation": True}, marks=pytest.mark.slow),
        pytest.param({"pooling": "token_and_mean", "scan_layers": True}, marks=pytest.mark.slow),
    ],
)
def test_logits_are_those_of_the_ordinary_model(changes):
    vit, params = model(**changes), random_params(**changes)
    packed = packed_rows(layout_of(**changes))
    batch = batch_of(packed)
    (found,) = packed_logits(vit, params, batch)
    row = max(range(ROWS), key=lambda row: len({image["images"].shape for image in alone(packed, row)}))
    images = {image["images"].shape[:2]: (place, image["images"]) for place, image in enumerate(alone(packed, row))}
    assert len(images) >= 3
    assert any(height != width for height, width in images)
    for place, image in images.values():
        np.testing.assert_allclose(found[row, place], logits_alone(vit, params, image), 1e-5, 1e-5)


def test_no_image_sees_another_or_the_padding(packed):
    vit, params, batch = model(), random_params(), batch_of(packed)
    row = int(np.argmax(batch["weights"]["classes"].sum(axis=1)))
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf[row : row + 1]), batch)
    assert one["segments"].min() == 0

    def logits_of(patches, number):
        found: Any = vit.apply({"params": params}, images_of(one | {"patches": patches}))
        return jnp.sum(jnp.take(found[0], number, axis=0) ** 2)

    gradient = jax.jit(jax.grad(logits_of), compiler_options=QUICK)
    for number in range(int(one["segments"].max())):
        reached = np.any(np.asarray(gradient(one["patches"], number)) != 0, axis=-1)
        np.testing.assert_array_equal(reached, (one["segments"] == number + 1) & (one["front"] == 0))
    spoilt = batch | {"patches": np.where(batch["segments"][..., None] > 0, batch["patches"], 1e3)}
    counted = batch["weights"]["classes"] > 0
    ours, theirs = packed_logits(vit, params, batch, spoilt)
    np.testing.assert_array_equal(ours[counted], theirs[counted])


def evaluated(batch: dict, mesh_text: str, **changes):
    """Metrics, and gradients in the place of parameters and of moments, on a mesh."""
    mesh, loss = mesh_of(mesh_text), supervised_loss(model(**changes), SUPERVISION, train=True)
    compute = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICK)
    params = random_params(**changes)
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, tree_shardings(params, mesh))
        (value, metrics), gradients = jax.device_get(compute(placed, global_batch(batch, mesh), KEY))
    return [metrics | {"loss": value}], gradients, gradients


@pytest.mark.parametrize("mesh", ["data:8", pytest.param("data:2,fsdp:2,tensor:2", marks=pytest.mark.slow)])
def test_loss_and_gradients_on_every_mesh(packed, mesh):
    batch = batch_of(packed)
    assert_same(evaluated(batch, mesh), evaluated(batch, "data:1"))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"pooling": "attention", "registers": 1}])
def test_loss_and_gradients_are_those_of_images_in_rows_of_their_own(changes):
    packed = packed_rows(layout_of(**changes))
    rows, single = batch_of(packed), []
    for row in range(ROWS):
        for number in range(1, int(rows["segments"][row].max()) + 1):
            length, start = int((rows["segments"][row] == number).sum()), int(rows["starts"][row, number - 1])
            one = jax.tree.map(np.zeros_like, packed.example(0, row))
            one["grids"] += 1
            for name in ("patches", "front", "places", "grids"):
                one[name][:length] = rows[name][row, start : start + length]
            one["segments"][:length], one["weights"]["classes"][0] = 1, 1
            one["labels"][0] = rows["labels"][row, number - 1]
            single.append(one)
    unpacked = jax.tree.map(lambda *leaves: np.stack(leaves), *single)
    (metrics,), *gradients = evaluated(rows, "data:1", **changes)
    (expected,), *expected_gradients = evaluated(unpacked, "data:1", **changes)
    for name in ("useful_positions", "useful_images", "useful_flops"):  # as much that is useful, of less
        np.testing.assert_allclose(metrics.pop(name)[0], expected.pop(name)[0], rtol=1e-6)
    assert_same(([metrics], *gradients), ([expected], *expected_gradients))


@pytest.mark.parametrize("changes", [{}, {"pooling": "attention", "registers": 2}])
def test_useful_operations_are_those_of_the_images_alone(changes):
    packed, config = packed_rows(layout_of(**changes)), dataclasses.replace(CONFIG, **changes)
    batch = batch_of(packed)
    expected = 0
    for row in range(ROWS):
        for image in alone(packed, row):
            height, width = image["images"].shape[:2]
            expected += step_flops(dataclasses.replace(config, image_size=f"{height}x{width}"), 1, CLASSES)
    needed, whole = useful_flops(config, jax.tree.map(jnp.asarray, batch), CLASSES)
    np.testing.assert_allclose(needed, expected, rtol=1e-6)
    assert whole == whole_flops(config, batch, CLASSES)
    assert needed < whole


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
    config = config_of(global_batch_size=ROWS, class_token=True)
    packed = packed_rows(row_layout(config.model, config.rows))
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), batch_shapes(config))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), batch_of(packed, 1)) == jax.tree.map(
        lambda shape: ((1, *shape[0][1:]), shape[1]), shapes, is_leaf=lambda leaf: isinstance(leaf, tuple)
    )


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
