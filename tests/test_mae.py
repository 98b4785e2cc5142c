"""The masked autoencoder: equal to that of transformers, and blind to what is hidden."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.errors import UserError
from core_jax.flops import count_flops
from core_jax.sharding import by_path, nested, parse_mesh
from vit_jax.config import MaeConfig, VitConfig
from vit_jax.mae import (
    MaskedAutoencoder,
    initial_mae_params,
    mae_flops,
    mae_loss,
    random_order,
    reconstruct,
    reconstruction_loss,
    targets,
    visible_patches,
)
from vit_jax.presets import PRESETS

CONFIG = VitConfig(
    width=24,
    depth=2,
    heads=3,
    mlp_width=40,
    image_size="12x16",
    patch_size=4,
    gelu="erf",
    norm_epsilon=1e-12,
    initializer="normal",
    initializer_range=0.1,
    dtype="float32",
)
MAE = MaeConfig(decoder_width=16, decoder_depth=1, decoder_heads=2)
MODEL = MaskedAutoencoder(CONFIG, MAE)
ROWS = 3


def images(height=12):
    return jnp.asarray(np.random.default_rng(0).normal(size=(ROWS, height, 16, 3)), jnp.float32)


@pytest.fixture(scope="module")
def params():
    """Random values everywhere: a missing bias would be seen."""
    order, random = random_order(CONFIG, jax.random.key(1), ROWS), np.random.default_rng(2)
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), images(), order)["params"]
    return jax.tree.map(lambda leaf: jnp.asarray(random.normal(scale=0.2, size=leaf.shape), jnp.float32), shapes)


def test_hidden_patches_are_not_seen(params):
    """What is predicted depends on visible patches alone."""
    order = random_order(CONFIG, jax.random.key(1), ROWS)

    def moved(picture):
        predicted: Any = MODEL.apply({"params": params}, picture, order)
        return jnp.sum(predicted[..., 0])

    gradient = np.asarray(jax.jit(jax.grad(moved))(images())).reshape(ROWS, 3, 4, 4, 4, 3)
    touched = np.abs(gradient).max(axis=(2, 4, 5)).reshape(ROWS, -1) > 0
    visible = np.argsort(order, axis=1) < visible_patches(CONFIG, MAE)
    np.testing.assert_array_equal(touched, visible)


def test_only_hidden_patches_count():
    order, random = random_order(CONFIG, jax.random.key(1), ROWS), np.random.default_rng(0)
    wanted = jnp.asarray(random.normal(size=(ROWS, 12, 48)), jnp.float32)
    weights = jnp.array([1.0, 0.0, 1.0])  # the second image is padding
    hidden = (np.argsort(order, axis=1) >= 3) & (weights > 0)[:, None]
    wrong = wanted + np.where(hidden[..., None], 0.0, 5.0)
    assert reconstruction_loss(wrong, wanted, order, 3, weights)[0] == 0
    wrong = wanted + np.where(hidden[..., None], 2.0, 0.0)
    total, count = reconstruction_loss(wrong, wanted, order, 3, weights)
    assert count == hidden.sum() == 18
    np.testing.assert_allclose(total / count, 4.0, rtol=1e-6)


def test_parts_of_a_batch_add_up(params):
    """The gradient's normaliser is that of the whole batch."""
    loss = jax.jit(mae_loss(MODEL, train=True))
    batch = {"images": images(), "weights": {"classes": jnp.array([1.0, 0.0, 1.0])}}
    whole, metrics = loss(params, batch, jax.random.key(3))
    part, _ = loss(params, batch | {"totals": {"classes": jnp.float32(4.0)}}, jax.random.key(3))
    np.testing.assert_allclose(whole, metrics["reconstruction_loss"][0] / metrics["reconstruction_loss"][1], rtol=1e-6)
    np.testing.assert_allclose(part, whole / 2, rtol=1e-6)


@pytest.mark.parametrize("normalised", [True, False])
def test_pictures_show_what_was_seen(params, normalised):
    model = MaskedAutoencoder(CONFIG, dataclasses.replace(MAE, normalised_pixels=normalised))
    shown = jax.jit(functools.partial(reconstruct, model))(params, images(), jax.random.key(1))
    np.testing.assert_array_equal(shown["image"], images())
    kept = np.asarray(shown["seen"] != 0)
    assert kept.sum() == ROWS * visible_patches(CONFIG, MAE) * 48
    np.testing.assert_array_equal(shown["seen"][kept], images()[kept])
    np.testing.assert_array_equal(shown["filled in"][kept], images()[kept])
    assert np.abs(shown["filled in"] - images())[~kept].min() > 0
    if not normalised:  # the loss is the mean square of what the pictures show
        order, wanted = random_order(CONFIG, jax.random.key(1), ROWS), targets(CONFIG, model.mae, images())
        predicted: Any = model.apply({"params": params}, images(), order)
        error, _ = reconstruction_loss(predicted, wanted, order, visible_patches(CONFIG, MAE), jnp.ones(ROWS))
        np.testing.assert_allclose(((shown["filled in"] - images()) ** 2).sum() / 48, error, rtol=1e-5)


def test_the_size_is_the_published_one():
    """Of https://github.com/facebookresearch/mae, mae_vit_base_patch16, whose fixed positions are parameters too."""
    preset = PRESETS["vit-b16-mae"]
    shapes = jax.eval_shape(initial_mae_params(MaskedAutoencoder(preset.model, preset.mae)), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) + 197 * (768 + 512) == 111_907_840


def test_operations_are_those_of_the_jaxpr():
    """On a mesh: the form of products on one CPU also has the gradient of the pixels in its jaxpr, which is unused."""
    plain = MaskedAutoencoder(dataclasses.replace(CONFIG, attention="reference"), MAE)
    batch = {"images": jnp.zeros((8, 12, 16, 3)), "weights": {"classes": jnp.ones(8)}}
    shapes = jax.eval_shape(initial_mae_params(plain), jax.random.key(0))
    step = jax.value_and_grad(mae_loss(plain, train=True), has_aux=True)
    with jax.set_mesh(parse_mesh("data:8")):
        assert count_flops(step, shapes, batch, jax.random.key(0)) == mae_flops(CONFIG, MAE, 8)


def test_orders_differ_between_images_and_keys():
    first, again, other = (random_order(CONFIG, jax.random.key(seed), 64) for seed in (0, 0, 1))
    np.testing.assert_array_equal(np.sort(first, axis=1), np.tile(np.arange(12), (64, 1)))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(np.unique(np.asarray(first), axis=0)) > 60
    # Each patch is visible about as often as every other: 64 x 3 / 12 = 16 times.
    seen = np.bincount(np.asarray(random_order(CONFIG, jax.random.key(5), 4000))[:, :3].ravel(), minlength=12)
    assert np.abs(seen - 1000).max() < 150


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"mask_share": 1.0}, "mask_share=1.0"), ({"decoder_heads": 3}, "does not divide into --decoder_heads=3")],
)
def test_mistakes(changes, message):
    with pytest.raises(UserError, match=message):
        MaeConfig(**changes)


def peer_params(found: dict, positions) -> dict:
    """Parameters of the peer, or their gradients, under our names."""
    names = {
        "vit.embeddings.patch_embeddings.projection": "vit/embeddings/patch",
        "vit.layernorm": "vit/encoder/final_norm",
        "decoder.decoder_embed": "decoder_embedding",
        "decoder.decoder_norm": "decoder/final_norm",
        "decoder.decoder_pred": "pixels",
    }
    layer = {
        **{
            f"attention.{letter}_proj": f"attention/{name}"
            for letter, name in zip("qkvo", ("query", "key", "value", "out"), strict=True)
        },
        **{
            "layernorm_before": "attention_norm",
            "layernorm_after": "mlp_norm",
            "mlp.fc1": "mlp/up",
            "mlp.fc2": "mlp/down",
        },
    }
    for theirs, ours, depth in (("vit.layers", "vit/encoder", 2), ("decoder.decoder_layers", "decoder", 1)):
        names |= {f"{theirs}.{i}.{a}": f"{ours}/block_{i}/{b}" for i in range(depth) for a, b in layer.items()}
    ours = {
        "vit/embeddings/class_token": found["vit.embeddings.cls_token"],
        "vit/embeddings/position": positions,
        "mask_token": found["decoder.mask_token"],
    }
    for theirs, path in names.items():
        weight, bias = found[f"{theirs}.weight"], found[f"{theirs}.bias"]
        heads = 3 if path.startswith("vit") else 2
        if path.endswith("norm"):
            ours[f"{path}/scale"] = weight
        elif path.endswith("patch"):
            ours[f"{path}/kernel"] = weight.transpose(2, 3, 1, 0)
        else:
            kernel = weight.T
            if path.endswith(("query", "key", "value")):
                kernel, bias = kernel.reshape(len(weight), heads, -1), bias.reshape(heads, -1)
            elif path.endswith("out"):
                kernel = kernel.reshape(heads, -1, len(weight))
            ours[f"{path}/kernel"] = kernel
        ours[f"{path}/bias"] = bias
    return nested(ours)


@pytest.mark.parametrize("normalised", [True, False])
def test_it_is_that_of_transformers(normalised):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    peer = transformers.ViTMAEForPreTraining(
        transformers.ViTMAEConfig(
            hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, image_size=16,
            patch_size=4, decoder_hidden_size=16, decoder_num_attention_heads=2, decoder_num_hidden_layers=1,
            decoder_intermediate_size=64, norm_pix_loss=normalised, initializer_range=0.1,
        )
    )  # fmt: skip
    peer.vit.embeddings.initialize_weights()  # of the fixed positions; the constructor leaves them at 0
    peer.decoder.initialize_weights(16)
    peer.vit.embeddings.cls_token.data.normal_()  # LayerNorm of a zero vector has a gradient in the hundreds
    noise = np.random.default_rng(1).random((ROWS, 16)).astype(np.float32)
    out = peer(torch.tensor(np.asarray(images(16)).transpose(0, 3, 1, 2)), noise=torch.tensor(noise))
    out.loss.backward()
    values = {name: leaf.detach().numpy() for name, leaf in peer.named_parameters()}
    params = peer_params(values, values["vit.embeddings.position_embeddings"])
    order = jnp.argsort(noise, axis=1)
    config = dataclasses.replace(CONFIG, image_size="16")
    mae = dataclasses.replace(MAE, normalised_pixels=normalised)
    model: Any = MaskedAutoencoder(config, mae)

    def loss(params):
        predicted = model.apply({"params": params}, images(16), order)
        total, count = reconstruction_loss(
            predicted, targets(config, mae, images(16)), order, visible_patches(config, mae), jnp.ones(ROWS)
        )
        return total / count, predicted

    (value, predicted), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(predicted, out.logits.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(value, out.loss.item(), rtol=1e-5)
    theirs = {name: leaf.grad.numpy() for name, leaf in peer.named_parameters() if leaf.requires_grad}
    theirs = by_path(peer_params(theirs, np.zeros(0)))
    for path, gradient in by_path(gradients).items():
        if path != "vit/embeddings/position":  # which stays as it is there
            np.testing.assert_allclose(gradient, theirs[path], atol=1e-5, err_msg=path)
