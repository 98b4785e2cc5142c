"""ViTs with timm's names: joined projections by hand, positions of every kind, there and back."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy

from core_jax.errors import UserError
from tests.test_weights import assert_same
from tests.vit_peers import random_vit
from vit_jax.config import VitConfig
from vit_jax.timm_weights import read_timm, write_timm

CONFIG = VitConfig(
    width=12, depth=2, heads=3, mlp_width=20, image_size="8", patch_size=4, gelu="erf", initializer="normal"
)
BARE = {"norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "attn.qkv.weight", "attn.qkv.bias"}
BARE |= {"attn.proj.weight", "attn.proj.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias"}


def written(folder, model):
    write_timm(folder / "a.safetensors", model)
    return safetensors.numpy.load_file(folder / "a.safetensors")


def test_names_and_the_order_of_what_is_joined(tmp_path):
    model = random_vit(CONFIG, 5)
    tensors = written(tmp_path, model)
    assert tensors.keys() == {
        *("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias"),
        *("head.weight", "head.bias"),
        *(f"blocks.{i}.{name}" for i in range(2) for name in BARE),
    }
    joined, attention = tensors["blocks.1.attn.qkv.weight"], model.params["vit"]["encoder"]["block_1"]["attention"]
    assert joined.shape == (36, 12)
    # Unit 1 of head 2 of the values, behind 12 rows of queries and 12 of keys.
    np.testing.assert_array_equal(joined[24 + 9], attention["value"]["kernel"][:, 2, 1])
    assert tensors["blocks.1.attn.qkv.bias"][12 + 9] == attention["key"]["bias"][2, 1]


@pytest.mark.parametrize(
    ("changes", "classes"),
    [
        ({}, 5),
        ({"image_size": "8x12", "layer_scale": 1e-5, "qk_norm": True}, None),
        ({"class_token": False, "pooling": "mean", "registers": 2}, 5),
        ({"class_token": False, "pooling": "attention"}, 5),
    ],
)
def test_there_and_back_is_the_identity(tmp_path, changes, classes):
    model = random_vit(dataclasses.replace(CONFIG, **changes), classes)
    tensors = written(tmp_path, model)
    assert ("attn_pool.kv.weight" in tensors) == (model.config.pooling == "attention")
    found = read_timm(tmp_path / "a.safetensors", 3, "8x12" if "image_size" in changes else "")
    assert found.config == model.config
    assert_same(found.params, model.params)
    write_timm(tmp_path / "b.safetensors", found)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_positions_with_registers(tmp_path):
    model = random_vit(dataclasses.replace(CONFIG, registers=2))
    tensors = written(tmp_path, model)
    ours = model.params["vit"]["embeddings"]
    assert tensors["pos_embed"].shape == (1, 4, 12)
    np.testing.assert_array_equal(tensors["cls_token"], ours["class_token"] + ours["position"][:, :1])
    found = read_timm(tmp_path / "a.safetensors", 3).params["vit"]["embeddings"]
    np.testing.assert_array_equal(found["position"][:, 0], 0)
    np.testing.assert_array_equal(found["position"][:, 1:], ours["position"][:, 1:])
    # A table with rows for all that stands in front: those of registers are added to them.
    rows = np.random.RandomState(0).standard_normal((1, 7, 12)).astype(np.float32)
    safetensors.numpy.save_file(tensors | {"pos_embed": rows}, tmp_path / "all.safetensors")
    found = read_timm(tmp_path / "all.safetensors", 3).params["vit"]["embeddings"]
    np.testing.assert_array_equal(found["registers"], ours["registers"] + rows[:, 1:3])
    np.testing.assert_array_equal(found["position"], rows[:, [0, 3, 4, 5, 6]])


def test_the_config_beside_it_tells_the_colours(tmp_path):
    written(tmp_path, random_vit(CONFIG))
    fields = {"pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0]}}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    found = read_timm(tmp_path / "a.safetensors", 3)
    assert (found.mean, found.deviation) == ((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))


def test_what_cannot_be_read_or_written(tmp_path):
    tensors = written(tmp_path, random_vit(CONFIG))
    wrong = tensors | {"fc_norm.weight": tensors["norm.weight"], "blocks.0.attn.qkv.bias": np.zeros(35, np.float32)}
    safetensors.numpy.save_file(wrong, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match=r"fc_norm\.weight: unknown\n  blocks.0.attn.qkv.bias: of shape \(35,\)"):
        read_timm(tmp_path / "b.safetensors", 3)
    safetensors.numpy.save_file({"pos_embed": tensors["pos_embed"]}, tmp_path / "c.safetensors")
    with pytest.raises(UserError, match=r"no ViT of timm's: it lacks patch_embed\.proj\.weight"):
        read_timm(tmp_path / "c.safetensors")
    with pytest.raises(UserError, match="there already"):
        write_timm(tmp_path / "a.safetensors", random_vit(CONFIG))
    changed = random_vit(dataclasses.replace(CONFIG, representation=True, pooling="mean"), 5)
    with pytest.raises(UserError, match="tanh layer before the classifier, --pooling=mean beside a class token"):
        write_timm(tmp_path / "d.safetensors", changed)
