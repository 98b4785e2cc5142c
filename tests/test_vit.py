"""ViT: sizes, positions, poolings, and what its options promise."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.dropout import drop_rows
from core_jax.errors import UserError
from core_jax.flops import count_flops
from core_jax.transformer import stack_layers
from tests.tiny_training import mesh_of
from tests.tiny_vit import CLASSES, CONFIG, PLAIN, change_layers, host_batch, model, random_params
from vit_jax.attention_rollout import attention_rollout, layer_weights
from vit_jax.model import VitForClassification
from vit_jax.model_flops import step_flops
from vit_jax.presets import PRESETS
from vit_jax.pretraining import build_model
from vit_jax.tasks import initial_params, supervised_loss

IMAGES = host_batch(0, rows=3)["images"]


@functools.cache
def params_of(**changes):
    return random_params(**changes)


def logits(images=IMAGES, params=None, *, train=False, seed=0, **changes):
    params = params_of(**changes) if params is None else params
    keys = {"dropout": jax.random.key(seed)}
    apply = jax.jit(functools.partial(model(**changes).apply, train=train))
    return np.asarray(apply({"params": params}, images, rngs=keys))


# The published counts: google-research/vision_transformer, models_test.py; DeiT's for tiny and small.
COUNTS = {
    "vit-ti16": 5_717_416,
    "vit-s16-deit": 22_050_664,
    "vit-b16": 86_567_656,
    "vit-b32": 88_224_232,
    "vit-l16": 304_326_632,
    "vit-h14": 632_045_800,
    "vit-r-ti16": 6_337_704,
    "vit-r26-s32": 36_431_912,
    "vit-r50-b16": 98_659_112,
    "vit-r50-l32": 328_994_856,
    # With a tanh layer before the classifier (D x D + D); vit-s16 without class token and position table.
    "vit-b16-augreg": 86_567_656 + 768 * 769,
    "vit-s16": 22_050_664 + 384 * 385 - 384 - 197 * 384,
}


@pytest.mark.parametrize("preset", COUNTS)
def test_sizes_are_the_published_ones(preset):
    config = PRESETS[preset]
    scanned = dataclasses.replace(config, model=dataclasses.replace(config.model, scan_layers=True))
    params = jax.eval_shape(initial_params(build_model(scanned, 1000)), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == COUNTS[preset]


def test_every_preset_has_its_name():
    assert all(config.preset == name for name, config in PRESETS.items())
    assert COUNTS.keys() == PRESETS.keys() - {"vit-tiny", "vit-b16-mae"}


def test_recipes_in_epochs():
    """Ninety epochs of 99 % of ImageNet, and the trap of weight decay: 0.0001 at a rate of 0.001 is our 0.1."""
    better = PRESETS["vit-s16"]
    assert better.training.steps == 111_477
    assert better.optimizer.weight_decay * better.optimizer.learning_rate == pytest.approx(0.0001)
    assert PRESETS["vit-s16-deit"].training.steps == 375_300


def test_patches_are_those_of_a_convolution():
    from core_jax.embeddings import PatchEmbedding

    embedding = PatchEmbedding(CONFIG, CONFIG.patch_size)
    params: Any = embedding.init(jax.random.key(0), jnp.asarray(IMAGES))
    kernel, strides = params["params"]["kernel"], (CONFIG.patch_size,) * 2
    expected = jax.lax.conv_general_dilated(
        IMAGES, kernel, strides, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    found: Any = embedding.apply(params, jnp.asarray(IMAGES))
    np.testing.assert_allclose(found, np.asarray(expected).reshape(3, -1, CONFIG.width), atol=1e-6)


def swapped(images):
    """The two halves of each image in exchange: the same patches at other places."""
    return np.concatenate([images[:, CONFIG.height // 2 :], images[:, : CONFIG.height // 2]], axis=1)


@pytest.mark.parametrize(("positions", "pooling"), [("learned", "token"), ("learned", "attention"), ("sincos", "mean")])
def test_positions_matter_through_their_table_alone(positions, pooling):
    changes = {"positions": positions, "pooling": pooling, "registers": 2}
    assert np.abs(logits(**changes) - logits(swapped(IMAGES), **changes)).max() > 1e-3
    if positions == "learned":
        params = params_of(**changes)
        embeddings = params["vit"]["embeddings"]
        without = embeddings | {"position": jnp.zeros_like(embeddings["position"])}
        params = params | {"vit": params["vit"] | {"embeddings": without}}
        np.testing.assert_allclose(
            logits(swapped(IMAGES), params, **changes), logits(IMAGES, params, **changes), atol=1e-5
        )


def test_what_is_pooled():
    from vit_jax.model import Vit

    for pooling, registers in (("token", 0), ("mean", 3)):
        vit = Vit(dataclasses.replace(CONFIG, pooling=pooling, registers=registers))
        params = params_of(pooling=pooling, registers=registers)["vit"]
        found: Any = vit.apply({"params": params}, jnp.asarray(IMAGES))
        hidden, pooled = found
        assert hidden.shape == (3, 1 + registers + 6, CONFIG.width)
        expected = hidden[:, 0] if pooling == "token" else hidden[:, 1 + registers :].mean(axis=1)
        np.testing.assert_allclose(pooled, expected, atol=1e-6)


def test_scanned_layers_are_the_same_model():
    params = params_of(layer_scale=0.5, qk_norm=True)
    scanned = change_layers(params, stack_layers)
    np.testing.assert_allclose(
        logits(params=scanned, layer_scale=0.5, qk_norm=True, scan_layers=True),
        logits(layer_scale=0.5, qk_norm=True),
        atol=1e-5,
    )


def test_layer_scale_multiplies_the_branches():
    """With factors of 1 it changes nothing; with 0 the layers are not there."""
    scaled = params_of(layer_scale=0.5)

    def with_scales(value):
        return jax.tree_util.tree_map_with_path(
            lambda path, x: jnp.full_like(x, value) if path[-1].key.endswith("_scale") else x, scaled
        )

    plain = jax.tree_util.tree_map_with_path(lambda path, x: x, scaled)
    for block in ("block_0", "block_1"):
        layer = plain["vit"]["encoder"][block]
        plain["vit"]["encoder"][block] = {name: x for name, x in layer.items() if not name.endswith("_scale")}
    np.testing.assert_allclose(logits(params=with_scales(1.0), layer_scale=0.5), logits(params=plain), atol=1e-5)
    nothing = with_scales(0.0)
    other = jax.tree_util.tree_map_with_path(
        lambda path, x: x + 1 if "['mlp']" in jax.tree_util.keystr(path) else x, nothing
    )
    np.testing.assert_array_equal(logits(params=nothing, layer_scale=0.5), logits(params=other, layer_scale=0.5))


def test_normalised_queries_have_no_length():
    """However large the kernel of the queries is, attention stays what it was."""
    params = params_of(qk_norm=True)
    longer = jax.tree_util.tree_map_with_path(
        lambda path, x: 10 * x if "query']" in jax.tree_util.keystr(path) else x, params
    )
    np.testing.assert_allclose(logits(params=longer, qk_norm=True), logits(qk_norm=True), atol=1e-4)


def test_stochastic_depth_drops_whole_branches_of_examples():
    x = jnp.arange(1.0, 6001.0).reshape(2000, 3)
    dropped = np.asarray(drop_rows(x, jax.random.key(0), jnp.float32(0.25)))
    kept = dropped[:, 0] != 0
    np.testing.assert_allclose(dropped[kept], np.asarray(x)[kept] / 0.75, rtol=1e-6)
    assert not dropped[~kept].any()
    assert abs(kept.mean() - 0.75) < 4 * (0.25 * 0.75 / 2000) ** 0.5
    np.testing.assert_array_equal(drop_rows(x, jax.random.key(0), jnp.float32(0)), x)


def test_stochastic_depth_is_of_training_alone():
    """Of two layers the first is never dropped; each example of a batch has a fate of its own."""
    images = np.repeat(IMAGES[:1], 16, axis=0)
    found = logits(images, train=True, stochastic_depth=0.5)
    outcomes = np.unique(found.round(5), axis=0)
    assert 2 <= len(outcomes) <= 4  # attention and MLP of the second layer, each there or not
    np.testing.assert_array_equal(logits(stochastic_depth=0.5), logits())
    assert not np.array_equal(found, logits(images, train=True, stochastic_depth=0.5, seed=1))


def test_the_head_starts_as_it_should():
    vit = VitForClassification(CONFIG, CLASSES, head_bias=-6.9)
    params = initial_params(vit)(jax.random.key(0))
    found: Any = vit.apply({"params": params}, jnp.asarray(IMAGES))
    np.testing.assert_allclose(found, -6.9, rtol=1e-6)


CHANGES = (
    {},
    {"pooling": "mean", "representation": True, "class_token": False},
    {"pooling": "attention", "registers": 2},
)


@pytest.mark.parametrize("changes", CHANGES)
def test_operations_are_those_that_are_computed(changes):
    vit, batch = model(attention="reference", **changes), host_batch(0)
    params = jax.eval_shape(initial_params(vit), jax.random.key(0))
    gradient = jax.value_and_grad(supervised_loss(vit, PLAIN, train=True), has_aux=True)
    with jax.set_mesh(mesh_of("data:8")):  # on one CPU the jaxpr also has the gradient of the pixels, which is unused
        computed = count_flops(gradient, params, batch, jax.random.key(0))
    assert step_flops(vit.config, len(batch["labels"]), CLASSES) == computed


@pytest.mark.parametrize("changes", [{}, {"pooling": "mean", "registers": 1, "scan_layers": True}])
def test_attention_rollout(changes):
    """Weights add up to 1 in every layer, and so does what has flowed; a layer that looks nowhere else keeps it."""
    vit, params = model(**changes), params_of(**changes)
    weights = jax.jit(functools.partial(layer_weights, vit))(params, IMAGES)
    assert weights.shape == (2, 3, 4, vit.config.tokens, vit.config.tokens)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
    flow = np.eye(vit.config.tokens)[None]
    for layer in np.asarray(weights, np.float64).mean(axis=2):
        flow = (layer + np.eye(vit.config.tokens)) / 2 @ flow
    front = vit.config.tokens - 6
    reads = flow[:, :1] if not changes else flow[:, front:]
    found = jax.jit(functools.partial(attention_rollout, vit))(params, IMAGES)
    np.testing.assert_allclose(found.reshape(3, -1), reads.mean(axis=1)[:, front:], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": "30", "patch_size": 4}, "use 28 or 32"),
        ({"image_size": "30", "patch_size": 4}, "does not divide into patches"),
        ({"image_size": "wide"}, "expected pixels, such as 224 or 224x320"),
        ({"class_token": False}, "--pooling=token needs --class_token=True"),
        ({"width": 18, "heads": 3, "positions": "sincos"}, "that 4 divides"),
        ({"stochastic_depth": 1.0}, "--stochastic_depth=1.0"),
        ({"registers": -1}, "--registers=-1"),
    ],
)
def test_impossible_sizes(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **changes)
