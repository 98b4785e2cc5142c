"""ViTs of `transformers`: names, shapes and values by hand, every bad folder refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from core_jax.errors import UserError
from core_jax.safetensors_files import FILE
from core_jax.transformer import stack_layers
from tests.test_weights import assert_same, change_config, change_tensors, cut
from tests.vit_peers import random_vit
from vit_jax.config import VitConfig
from vit_jax.weights import IMAGENET, in_plain_layout, read_hf, write_hf

CONFIG = VitConfig(
    width=12, depth=2, heads=3, mlp_width=20, image_size="8x12", patch_size=4, channels=2, initializer="normal"
)
DINOV2 = dataclasses.replace(
    CONFIG, mlp_width=24, image_size="8", gelu="erf", layer_scale=1.0, registers=3, pooling="token_and_mean"
)
LABELS = ["x", "y", "z"]
LAYER = {
    "layernorm_before": None,
    "attention.attention.query": (12, 12),
    "attention.attention.key": (12, 12),
    "attention.attention.value": (12, 12),
    "attention.output.dense": (12, 12),
    "layernorm_after": None,
    "intermediate.dense": (20, 12),
    "output.dense": (12, 20),
}
# As `transformers` saves ViTForImageClassification.
SHAPES = {
    "vit.embeddings.cls_token": (1, 1, 12),
    "vit.embeddings.position_embeddings": (1, 7, 12),
    "vit.embeddings.patch_embeddings.projection.weight": (12, 2, 4, 4),
    "vit.embeddings.patch_embeddings.projection.bias": (12,),
    **{
        f"vit.encoder.layer.{i}.{name}.{leaf}": (shape or (12,)) if leaf == "weight" else (shape or (12,))[:1]
        for i in range(2)
        for name, shape in LAYER.items()
        for leaf in ("weight", "bias")
    },
    "vit.layernorm.weight": (12,),
    "vit.layernorm.bias": (12,),
    "classifier.weight": (3, 12),
    "classifier.bias": (3,),
}


def write(folder, config=CONFIG, classes: int | None = 3):
    model = random_vit(config, classes, labels=LABELS if classes == 3 else None)
    write_hf(folder, model)
    return model


def test_names_and_shapes_on_disk_are_those_of_the_peer(tmp_path):
    ours = write(tmp_path / "out").params["vit"]
    tensors = safetensors.numpy.load_file(tmp_path / "out" / FILE)
    assert {name: value.shape for name, value in tensors.items()} == SHAPES
    key = tensors["vit.encoder.layer.1.attention.attention.key.weight"]
    # Unit 1 of head 2 is unit 2 * 4 + 1 there, and inputs are columns.
    np.testing.assert_array_equal(key[9], ours["encoder"]["block_1"]["attention"]["key"]["kernel"][:, 2, 1])
    # Row 1, column 3, colour 0 of a patch.
    patch = tensors["vit.embeddings.patch_embeddings.projection.weight"]
    np.testing.assert_array_equal(patch[:, 0, 1, 3], ours["embeddings"]["patch"]["kernel"][1, 3, 0])


@pytest.mark.parametrize("config", [CONFIG, DINOV2])
@pytest.mark.parametrize("scanned", [False, True])
def test_there_and_back_is_the_identity(tmp_path, config, scanned):
    model = random_vit(config, 3, labels=LABELS, mean=IMAGENET[0])
    given = model.params
    if scanned:
        vit = given["vit"] | {"encoder": jax.device_get(stack_layers(given["vit"]["encoder"]))}
        given = given | {"vit": vit}
    write_hf(tmp_path / "out", dataclasses.replace(model, params=given))
    found = read_hf(tmp_path / "out")
    assert_same(found.params, model.params)
    assert dataclasses.replace(found, params={}) == dataclasses.replace(model, params={})


def as_in_memory(name):
    """A tensor's name in version 5 of the peer, without the prefix."""
    name = name.removeprefix("vit.").replace("encoder.layer.", "layers.").replace("attention.output.dense", "O")
    for old, new in (("query", "q"), ("key", "k"), ("value", "v")):
        name = name.replace(f"attention.attention.{old}", f"attention.{new}_proj")
    name = name.replace("intermediate.dense", "mlp.fc1").replace("output.dense", "mlp.fc2")
    return name.replace("O", "attention.o_proj")


def test_newer_names_without_prefix_and_what_the_peer_leaves_unused(tmp_path):
    model = write(tmp_path / "out")
    change_tensors(
        tmp_path / "out",
        lambda tensors: (
            {as_in_memory(name): value for name, value in tensors.items()}
            | {"embeddings.mask_token": np.zeros((1, 1, 12), np.float32)}
            | {"pooler.dense.weight": np.ones((12, 12), np.float32), "pooler.dense.bias": np.ones(12, np.float32)}
        ),
    )
    assert "layers.1.attention.o_proj.weight" in safetensors.numpy.load_file(tmp_path / "out" / FILE)
    assert_same(read_hf(tmp_path / "out").params, model.params)


def test_the_pooler_is_the_tanh_layer(tmp_path):
    model = write(tmp_path / "out", dataclasses.replace(CONFIG, representation=True), classes=None)
    tensors = safetensors.numpy.load_file(tmp_path / "out" / FILE)
    np.testing.assert_array_equal(tensors["pooler.dense.weight"], model.params["representation"]["kernel"].T)
    assert read_hf(tmp_path / "out").config == model.config


def test_all_that_is_wrong_with_tensors_is_said_at_once(tmp_path):
    def spoil(tensors):
        del tensors["vit.encoder.layer.1.output.dense.bias"]
        tensors["vit.layernorm.weight"] = tensors["vit.layernorm.weight"][:5]
        return tensors | {"vit.encoder.layer.7.strange": np.zeros(2, np.float32)}

    write(tmp_path / "out")
    change_tensors(tmp_path / "out", spoil)
    with pytest.raises(UserError) as caught:
        read_hf(tmp_path / "out")
    assert {line.strip() for line in str(caught.value).splitlines()[1:]} == {
        "vit.encoder.layer.1.output.dense.bias: missing",
        "vit.encoder.layer.7.strange: unknown",
        "vit.layernorm.weight: of shape (5,), expected (12,)",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "beit"}, "model_type is 'beit', expected one of vit, dinov2, dinov2_with_registers"),
        ({"hidden_act": "relu", "qkv_bias": False}, "qkv_bias is False, expected True\n  hidden_act is 'relu'"),
        ({"pooler_output_size": 5}, "pooler_output_size is 5, expected 12"),
        ({"hidden_size": "gone"}, "hidden_size is missing"),
        ({"hidden_size": "wide"}, "cannot be read"),
        ({"num_attention_heads": 5}, "does not divide"),
        ({"image_size": [8, 13]}, "does not divide into patches"),
        ({"image_size": 8}, r"\(1, 7, 12\), expected \(1, 5, 12\)"),
        ({"patch_size": [4, 2]}, "expected squares"),
    ],
)
def test_configs_of_other_models(tmp_path, changes, message):
    write(tmp_path / "out")
    change_config(tmp_path / "out", **changes)
    with pytest.raises(UserError, match=message):
        read_hf(tmp_path / "out")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: cut(folder / FILE), "damaged or no safetensors file"),
        (lambda folder: (folder / FILE).rename(folder / "pytorch_model.bin"), "pickle can run any code"),
        (lambda folder: (folder / "config.json").unlink(), r"holds no config\.json"),
        (lambda folder: cut(folder / "config.json"), "cannot be read"),
        (lambda folder: (folder / "preprocessor_config.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "preprocessor_config.json").write_text('{"image_std": ["a"]}'), "expected numbers"),
    ],
)
def test_damaged_folders(tmp_path, spoil, message):
    write(tmp_path / "out")
    spoil(tmp_path / "out")
    with pytest.raises(UserError, match=message):
        read_hf(tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qk_norm": True, "pooling": "mean"}, "are normalised\n  it pools by mean"),
        ({"class_token": False, "pooling": "mean"}, "no class token"),
        ({"registers": 1}, "registers, but no LayerScale"),
        ({"layer_scale": 1.0}, r"not square \(8x12\)\n  its MLP is no whole number of times 12 wide"),
        ({"representation": True}, "tanh layer before its classifier"),
        ({"pooling": "token_and_mean"}, "does not classify"),
    ],
)
def test_what_the_peer_does_not_have(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        write(tmp_path / "out", dataclasses.replace(CONFIG, **changes))
    write(tmp_path / "other")
    with pytest.raises(UserError, match="there already"):
        write(tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_fixed_positions_are_written_as_a_table(tmp_path):
    model = random_vit(dataclasses.replace(CONFIG, positions="sincos"), 3)
    write_hf(tmp_path / "out", model)
    found = read_hf(tmp_path / "out")
    assert found.config.positions == "learned"
    assert_same(found.params, in_plain_layout(model).params)
    assert found.params["vit"]["embeddings"]["position"][0, 1, 3] == 1  # the cosine of column 0


def test_a_config_without_what_has_defaults(tmp_path):
    write(tmp_path / "out", dataclasses.replace(DINOV2, pooling="token"), classes=None)
    fields = json.loads((tmp_path / "out" / "config.json").read_text())
    change_config(tmp_path / "out", **dict.fromkeys(("layer_norm_eps", "hidden_act", "layerscale_value"), "gone"))
    assert fields["mlp_ratio"] == 2
    assert read_hf(tmp_path / "out").config == dataclasses.replace(DINOV2, pooling="token")


def test_grey_images_have_one_mean(tmp_path):
    model = random_vit(dataclasses.replace(CONFIG, channels=1), 3)
    write_hf(tmp_path / "out", model)
    assert json.loads((tmp_path / "out/preprocessor_config.json").read_text())["image_mean"] == [0.5]
    assert read_hf(tmp_path / "out").mean == model.mean
