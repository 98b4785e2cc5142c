"""ViT on packed images: each is seen, counted and learnt from as if it were alone."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.sharding import global_batch, tree_shardings
from tests.packed_noise import ROWS, alone, layout_of, packed_rows, seen_batch
from tests.same_training import assert_same
from tests.tiny_training import mesh_of
from tests.tiny_vit import CLASSES, CONFIG, model, random_params
from vit_jax.model import VitForClassification
from vit_jax.model_flops import step_flops, useful_flops, whole_flops
from vit_jax.packed_images import PackedImages
from vit_jax.position_tables import resize_model
from vit_jax.supervision import SupervisionConfig
from vit_jax.tasks import images_of, supervised_loss

KEY = jax.random.key(0)
SUPERVISION = SupervisionConfig(label_smoothing=0.1, loss="sigmoid")


@pytest.fixture(scope="module")
def packed() -> PackedImages:
    return packed_rows(layout_of())


def logits_alone(vit: VitForClassification, params: dict, image: np.ndarray) -> np.ndarray:
    """What the ordinary model says of one image, its learned positions interpolated to the size of that."""
    config, params = resize_model(vit.config, params, f"{image.shape[0]}x{image.shape[1]}")
    run = jax.jit(VitForClassification(config, vit.classes).apply)
    found: Any = run({"params": params}, jnp.asarray(image[None]))
    return np.asarray(found[0])


def packed_logits(vit: VitForClassification, params: dict, *batches: dict) -> list[np.ndarray]:
    run = jax.jit(lambda batch: vit.apply({"params": params}, images_of(batch)))
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
    batch = seen_batch(packed)
    (found,) = packed_logits(vit, params, batch)
    row = max(range(ROWS), key=lambda row: len({image["images"].shape for image in alone(packed, row)}))
    images = {image["images"].shape[:2]: (place, image["images"]) for place, image in enumerate(alone(packed, row))}
    assert len(images) >= 3
    assert any(height != width for height, width in images)
    for place, image in images.values():
        np.testing.assert_allclose(found[row, place], logits_alone(vit, params, image), 1e-5, 1e-5)


def test_no_image_sees_another_or_the_padding(packed):
    vit, params, batch = model(), random_params(), seen_batch(packed)
    row = int(np.argmax(batch["weights"]["classes"].sum(axis=1)))
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf[row : row + 1]), batch)
    assert one["segments"].min() == 0

    def logits_of(patches, number):
        found: Any = vit.apply({"params": params}, images_of(one | {"patches": patches}))
        return jnp.sum(jnp.take(found[0], number, axis=0) ** 2)

    gradient = jax.jit(jax.grad(logits_of))
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
    compute = jax.jit(jax.value_and_grad(loss, has_aux=True))
    params = random_params(**changes)
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, tree_shardings(params, mesh))
        (value, metrics), gradients = jax.device_get(compute(placed, global_batch(batch, mesh), KEY))
    return [metrics | {"loss": value}], gradients, gradients


@pytest.mark.parametrize("mesh", ["data:8", pytest.param("data:2,fsdp:2,tensor:2", marks=pytest.mark.slow)])
def test_loss_and_gradients_on_every_mesh(packed, mesh):
    batch = seen_batch(packed)
    assert_same(evaluated(batch, mesh), evaluated(batch, "data:1"))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"pooling": "attention", "registers": 1}])
def test_loss_and_gradients_are_those_of_images_in_rows_of_their_own(changes):
    packed = packed_rows(layout_of(**changes))
    rows, single = seen_batch(packed), []
    for row in range(ROWS):
        for number in range(1, int(rows["segments"][row].max()) + 1):
            length, start = int((rows["segments"][row] == number).sum()), int(rows["starts"][row, number - 1])
            one = jax.tree.map(lambda leaf, row=row: np.zeros_like(leaf[row]), rows)
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
    batch = seen_batch(packed)
    expected = 0
    for row in range(ROWS):
        for image in alone(packed, row):
            height, width = image["images"].shape[:2]
            expected += step_flops(dataclasses.replace(config, image_size=f"{height}x{width}"), 1, CLASSES)
    needed, whole = useful_flops(config, jax.tree.map(jnp.asarray, batch), CLASSES)
    np.testing.assert_allclose(needed, expected, rtol=1e-6)
    assert whole == whole_flops(config, batch, CLASSES)
    assert needed < whole
