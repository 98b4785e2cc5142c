"""Images travel as bytes and are normalised on the device: the same values, losses and steps as from the host."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.optimizers import make_optimizer
from core_jax.sharding import global_batch, tree_shardings
from tests.same_training import assert_same
from tests.tiny_training import OPTIMIZER, STEPS, mesh_of
from tests.tiny_vit import CONFIG, PLAIN, fresh_state, host_batch, model, random_params
from vit_jax.config import MaeConfig
from vit_jax.features import make_extractor
from vit_jax.images_config import NORMALIZATIONS
from vit_jax.mae import MaskedAutoencoder, initial_mae_params, mae_loss
from vit_jax.mixing import make_mixing
from vit_jax.normalization import normalised, normalised_batch, of_bytes
from vit_jax.presets import PRESETS
from vit_jax.pretraining import batch_shapes, read_images
from vit_jax.supervision import SupervisionConfig
from vit_jax.tasks import images_of, make_preparation, make_scoring, training_step

MIXED = SupervisionConfig(label_smoothing=0.1, mixup=0.8, cutmix=1.0)
ROUNDING = 2.5e-7  # of values up to 2.7, where a product and a sum are rounded once instead of twice


def byte_batch(step: int, channels: int = 1) -> dict:
    random, plain = np.random.default_rng(step), host_batch(step)
    shape = (*plain["images"].shape[:3], channels)
    return plain | {"images": random.integers(0, 256, shape, np.uint8)}


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_devices_normalise_as_hosts_do(normalization):
    values = np.stack([np.arange(256), np.arange(256)[::-1], np.roll(np.arange(256), 9)], axis=-1).astype(np.uint8)
    images = values.reshape(1, 16, 16, 3)
    mean, deviation = (np.array(colours) for colours in NORMALIZATIONS[normalization])
    host = normalised(images, normalization, 3)
    product = images.astype(np.float32) * (1 / (255 * deviation)).astype(np.float32)
    np.testing.assert_array_equal(host, product + (-mean / deviation).astype(np.float32))  # float32 all the way
    np.testing.assert_allclose(host, (images / 255 - mean) / deviation, atol=1e-6)
    device = jax.jit(functools.partial(normalised, normalization=normalization, channels=3))(images)
    assert (host.dtype, device.dtype) == (np.float32, jnp.float32)
    np.testing.assert_allclose(device, host, rtol=0, atol=ROUNDING)
    for rows in (images.reshape(1, 16, -1), images.reshape(1, -1)):  # rows and patches are many pixels at once
        np.testing.assert_array_equal(normalised(rows, normalization, 3), host.reshape(rows.shape))
    assert normalised(host, normalization, 3) is host


def test_grey_is_normalised_by_one_mean():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_allclose(normalised(images, "half", 1), images / 127.5 - 1, atol=1e-6)


def after_two_steps(mesh_text: str, accumulation: int, supervision: SupervisionConfig, *, on_host: bool):
    """Metrics, parameters and moments of the step that is trained with, from bytes or what the host makes of them."""
    mesh, optimizer = mesh_of(mesh_text), make_optimizer(OPTIMIZER, STEPS)
    state = jax.tree.map(lambda leaf: leaf.copy(), fresh_state())
    state, seen = jax.device_put(state, tree_shardings(state, mesh)), []
    step = training_step(model(), supervision, "half", optimizer, state, accumulation)
    with jax.set_mesh(mesh):
        for number in range(2):
            batch = byte_batch(number)
            batch = normalised_batch(batch, "half", 1) if on_host else batch
            state, metrics = step(state, global_batch(batch, mesh))
            seen.append(jax.device_get(metrics))
    return seen, *jax.device_get((state.params, state.opt[1].mu))


def test_images_are_mixed_as_they_are_seen():
    prepare, batch, key = make_preparation(MIXED, "imagenet", 3), byte_batch(0, channels=3), jax.random.key(1)
    mixing = make_mixing(MIXED.mixup, MIXED.cutmix)
    assert prepare is not None
    assert mixing is not None
    found = jax.jit(prepare)(batch, key)
    expected = jax.jit(mixing)(normalised_batch(batch, "imagenet", 3), key)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=2 * ROUNDING), found, expected)
    assert make_preparation(PLAIN, "imagenet", 3) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "accumulation", "supervision"), [("data:8", 4, MIXED), ("data:2,fsdp:2,tensor:2", 1, PLAIN)]
)
def test_steps_from_bytes_are_those_from_floats(mesh, accumulation, supervision):
    expected = after_two_steps("data:1", 1, supervision, on_host=True)
    assert_same(after_two_steps(mesh, accumulation, supervision, on_host=False), expected)


def test_scores_and_features_from_bytes_are_those_from_floats():
    params, batch = random_params(), byte_batch(0)
    floats = normalised_batch(batch, "half", 1)
    score, extract = make_scoring(model(), "softmax", "half"), make_extractor(CONFIG, "half")
    for ours, theirs in zip(*(jax.tree.leaves(score(params, one)) for one in (batch, floats)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    found, expected = (extract(params["vit"], one["images"]) for one in (batch, floats))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_masked_autoencoders_learn_from_bytes():
    """With three channels, of which each has its own mean."""
    mae = MaskedAutoencoder(
        dataclasses.replace(CONFIG, channels=3), MaeConfig(decoder_width=16, decoder_depth=1, decoder_heads=2)
    )
    params, batch, key = (
        jax.jit(initial_mae_params(mae))(jax.random.key(0)),
        byte_batch(0, channels=3),
        jax.random.key(1),
    )
    loss = jax.jit(of_bytes(mae_loss(mae, train=True), "imagenet", 3))
    value, expected = (loss(params, one, key)[0] for one in (batch, normalised_batch(batch, "imagenet", 3)))
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_packed_patches_are_normalised_too():
    patches = np.random.default_rng(0).integers(0, 256, (2, 5, 12), np.uint8)
    counts: dict[str, Any] = {name: np.ones((2, 5), np.int32) for name in ("segments", "front", "starts")}
    grids: dict[str, Any] = {name: np.ones((2, 5, 2), np.int32) for name in ("places", "grids")}
    found: Any = images_of(normalised_batch({"patches": patches} | counts | grids, "imagenet", 3))
    expected = normalised(patches.reshape(2, 5, 4, 3), "imagenet", 3).reshape(2, 5, 12)
    np.testing.assert_array_equal(found.patches, expected)


@pytest.mark.parametrize(("erasing", "dtype"), [(0.0, np.uint8), (0.25, np.float32)])
@pytest.mark.parametrize("packing", [False, True])
def test_batches_are_of_bytes_but_for_noise_in_them(erasing, dtype, packing):
    config = PRESETS["vit-tiny"]
    config = dataclasses.replace(config, images=dataclasses.replace(config.images, random_erasing=erasing))
    if packing:
        rows = dataclasses.replace(config.rows, packing=True, resolutions="4,8")
        plain = dataclasses.replace(config.supervision, mixup=0.0)
        config = dataclasses.replace(config, rows=rows, supervision=plain)
    data, name = read_images(config), "patches" if packing else "images"
    assert data.train.example(0, 0)[name].dtype == batch_shapes(config)[name].dtype == dtype
    assert data.held_out.example(0, 0)["images"].dtype == np.uint8  # nothing is erased from these


def test_recipes_that_ship_floats_are_those_that_erase():
    for name, preset in PRESETS.items():
        floats = batch_shapes(preset)["images"].dtype == jnp.float32
        assert floats == bool(preset.images.random_erasing), name
    assert PRESETS["vit-s16-deit"].images.random_erasing
