"""Hybrid ViTs: their files there and back, sizes, arithmetic, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.errors import UserError
from core_jax.flops import count_flops
from core_jax.optimizers import make_optimizer, scale_by_layer
from core_jax.sharding import by_path
from core_jax.train import create_state, make_step
from tests.same_training import assert_same as assert_same_training
from tests.test_weights import assert_same
from tests.tiny_training import OPTIMIZER, STEPS, compiled, mesh_of, take_steps
from tests.tiny_vit import PLAIN
from tests.vit_peers import random_vit
from vit_jax import config as sizes
from vit_jax.config import VitConfig
from vit_jax.model import VitForClassification
from vit_jax.model_flops import stem_flops, step_flops, useful_flops
from vit_jax.numpy_weights import read_npz, write_npz
from vit_jax.presets import PRESETS
from vit_jax.resnet import ResNet, stem_of
from vit_jax.tasks import initial_params, supervised_loss
from vit_jax.timm_weights import read_timm, write_timm
from vit_jax.weights import write_hf

CONFIG = VitConfig(
    width=12, depth=1, heads=3, mlp_width=20, image_size="32", patch_size=1, stem="2,1", stem_width=32, dtype="float32"
)


@pytest.mark.parametrize("changes", [{}, {"stem": "root", "patch_size": 2}])
def test_there_and_back_is_the_identity(tmp_path, changes):
    model = random_vit(dataclasses.replace(CONFIG, **changes), 5)
    write_npz(tmp_path / "a.npz", model)
    with np.load(tmp_path / "a.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    assert ("block1/unit2/conv3/kernel" in arrays) == (changes == {})
    older = {name: value.reshape(1, 1, 1, -1) if "gn" in name else value for name, value in arrays.items()}
    np.savez(tmp_path / "older.npz", **{f"opt/target/{name}": value for name, value in older.items()})
    write_timm(tmp_path / "a.safetensors", model)
    for found in (read_npz(tmp_path / "a.npz"), read_npz(tmp_path / "older.npz")):
        assert dataclasses.replace(found.config, dtype="float32") == model.config
        assert_same(found.params, model.params)
    found = read_timm(tmp_path / "a.safetensors", 3)
    assert (found.config.stem, found.config.stem_epsilons) == (model.config.stem, "timm")
    assert_same(found.params, model.params)
    with pytest.raises(UserError, match="write npz:FILE or timm:FILE"):
        write_hf(tmp_path / "hf", model)


def test_maps_round_sizes_up_and_operations_are_counted():
    config = dataclasses.replace(CONFIG, image_size="33x50")
    stem, images = stem_of(config), jax.ShapeDtypeStruct((1, 33, 50, 3), jnp.float32)
    params = jax.eval_shape(stem.init, jax.random.key(0), images)
    maps = jax.eval_shape(lambda params, images: stem.apply(params, images, method=ResNet.feature_maps), params, images)
    assert [x.shape[1:] for x in maps] == [(9, 13, 32), (9, 13, 128), (5, 7, 256)]
    assert config.grid == (5, 7)
    assert sum(stem_flops(config)) == count_flops(stem.apply, params, images)


@pytest.mark.parametrize("changes", [{"stem": "3,4,9"}, {"patch_size": 14, "image_size": "1792", "pooling": "mean"}])
def test_operations_of_an_image_may_be_more_than_an_integer_holds(changes):
    config = dataclasses.replace(sizes.HUGE, **{"stem_width": 64, "patch_size": 1, "image_size": "448"} | changes)
    batch = {"weights": {"classes": jnp.arange(8) % 2}}
    needed, computed = useful_flops(config, batch, 1000)
    np.testing.assert_allclose(computed, step_flops(config, 8, 1000), rtol=1e-6)
    np.testing.assert_allclose(needed, step_flops(config, 4, 1000), rtol=1e-6)


def test_the_stem_is_the_lowest_layer():
    params = random_vit(CONFIG, 5).params
    ones = jax.tree.map(jnp.ones_like, params)
    found = by_path(scale_by_layer(0.5).update(ones, scale_by_layer(0.5).init(params))[0])
    assert {float(leaf.max()) for path, leaf in found.items() if "/stem/" in path} == {0.25}


@pytest.mark.slow
def test_training_is_the_same_on_every_mesh():
    config = dataclasses.replace(CONFIG, image_size="8x16", stem="1,1", width=16, heads=4, mlp_width=32)
    vit, transformation = VitForClassification(config, 4), make_optimizer(OPTIMIZER, STEPS)

    def host_batch(step):
        random = np.random.default_rng(step)
        images = random.uniform(-1, 1, (8, config.height, config.width_of_image, 3)).astype(np.float32)
        labels = random.integers(0, 4, 8, dtype=np.int32)
        return {"images": images, "labels": labels, "weights": {"classes": np.ones(8, np.float32)}}

    def trained(mesh):
        state = create_state(initial_params(vit), transformation, mesh_of("data:1"), seed=0)
        step = make_step(supervised_loss(vit, PLAIN, train=True), transformation, 1)
        state, metrics = take_steps(compiled(mesh, state, step, host_batch), 3, host_batch)
        return metrics, *jax.device_get((state.params, state.opt[1].mu))

    assert_same_training(trained("data:2,tensor:2,fsdp:2"), trained("data:1"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stem": "3,x"}, "--stem=3,x: expected units"),
        ({"stem_width": 40}, "expected a multiple of 32"),
        ({"stem": "root", "patch_size": 8, "image_size": "200"}, "use 192 or 224"),
    ],
)
def test_impossible_stems(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_a_masked_autoencoder_has_no_stem():
    config = PRESETS["vit-b16-mae"]
    with pytest.raises(UserError, match="before any can be hidden"):
        dataclasses.replace(config, model=dataclasses.replace(config.model, stem="3,4,9", patch_size=1))
