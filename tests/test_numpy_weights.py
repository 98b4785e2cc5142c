"""ViTs in `.npz` files of google-research: every layout by hand, what is written, every bad file refused."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.errors import UserError
from core_jax.sharding import by_path
from tests.test_weights import assert_same, cut
from tests.vit_peers import random_vit
from vit_jax.config import VitConfig
from vit_jax.numpy_weights import read_npz, write_npz

CONFIG = VitConfig(width=12, depth=11, heads=3, mlp_width=20, image_size="8", patch_size=4)
BLOCKS = "Transformer/encoderblock_"
POSITIONS = "Transformer/posembed_input/pos_embedding"
OLDER = ("LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
NEWER = ("LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")


def arrays_of(params, parts=NEWER):
    """Our parameters as the projects name them, written down once more."""
    vit, found = params["vit"], {}
    tree = {"embedding": vit["embeddings"]["patch"], "Transformer/encoder_norm": vit["encoder"]["final_norm"]}
    for i in range(11):
        block = vit["encoder"][f"block_{i}"]
        mlp = {"Dense_0": block["mlp"]["up"], "Dense_1": block["mlp"]["down"]}
        for part, value in zip(
            parts, (block["attention_norm"], block["attention"], block["mlp_norm"], mlp), strict=True
        ):
            tree[f"{BLOCKS}{i}/{part}"] = value
    if "pooler" in vit:
        pooler = vit["pooler"]
        tree["MAPHead_0"] = {
            "probe": pooler["probe"],
            "MultiHeadDotProductAttention_0": pooler["attention"],
            "LayerNorm_0": pooler["norm"],
            "MlpBlock_0": {"Dense_0": pooler["mlp"]["up"], "Dense_1": pooler["mlp"]["down"]},
        }
    if "representation" in params:
        tree["pre_logits"] = params["representation"]
    if "classifier" in params:
        tree["head"] = params["classifier"]["dense"]
    for name, value in tree.items():
        found |= {f"{name}/{path}": leaf for path, leaf in by_path(value).items()}
    if "class_token" in vit["embeddings"]:
        found["cls"] = vit["embeddings"]["class_token"]
    if "position" in vit["embeddings"]:
        found[POSITIONS] = vit["embeddings"]["position"]
    return found


def scan(arrays):
    """All layers in one array for each parameter."""
    found = {name: value for name, value in arrays.items() if not name.startswith(BLOCKS)}
    for name in arrays:
        if name.startswith(f"{BLOCKS}0/"):
            layers = [arrays[name.replace("block_0", f"block_{i}", 1)] for i in range(11)]
            found[name.replace("block_0", "block", 1)] = np.stack(layers)
    return found


def without_first_row(arrays):
    """Positions of the patches alone, at the top."""
    found = dict(arrays)
    return found | {"pos_embedding": found.pop(POSITIONS)[:, 1:]}


def under(prefix, arrays):
    return {f"{prefix}{name}": value for name, value in arrays.items()}


@pytest.mark.parametrize("prefix", ["", "opt/target/", "params/", "params/img/"])
@pytest.mark.parametrize("parts", [OLDER, NEWER])
def test_both_numberings_under_every_prefix(tmp_path, prefix, parts):
    model = random_vit(CONFIG, 5)
    moments = {"opt/state/step": np.array(5), "opt/state/param_states/cls/grad_ema": np.zeros(3)} if prefix else {}
    np.savez(tmp_path / "a.npz", **under(prefix, arrays_of(model.params, parts)), **moments)
    found = read_npz(tmp_path / "a.npz")
    assert found.config == CONFIG
    assert_same(found.params, model.params)


def test_scanned_layers_in_halves_with_a_pooling_query_and_positions_of_patches(tmp_path):
    config = dataclasses.replace(CONFIG, class_token=False, pooling="attention", representation=True)
    model = random_vit(config, 5)
    arrays = scan(arrays_of(model.params))
    arrays["pos_embedding"] = arrays.pop(POSITIONS)
    halves = {name: value.astype(jnp.bfloat16) for name, value in arrays.items()}
    np.savez(tmp_path / "a.npz", **under("params/", halves))
    with np.load(tmp_path / "a.npz") as stored:
        assert stored["params/pos_embedding"].dtype == np.dtype("V2")
    found = read_npz(tmp_path / "a.npz")
    assert found.config == config
    expected = {path: value.astype(jnp.bfloat16).astype(np.float32) for path, value in by_path(model.params).items()}
    assert_same(by_path(found.params), expected)


def test_positions_of_patches_beside_a_class_token(tmp_path):
    model = random_vit(CONFIG, 5)
    np.savez(tmp_path / "a.npz", **without_first_row(arrays_of(model.params)))
    table = read_npz(tmp_path / "a.npz").params["vit"]["embeddings"]["position"]
    np.testing.assert_array_equal(table[:, 0], 0)
    np.testing.assert_array_equal(table[:, 1:], model.params["vit"]["embeddings"]["position"][:, 1:])


def test_fixed_positions_without_classifier_or_class_token(tmp_path):
    config = dataclasses.replace(CONFIG, class_token=False, pooling="mean", positions="sincos")
    model = random_vit(config)
    np.savez(tmp_path / "a.npz", **arrays_of(model.params))
    assert read_npz(tmp_path / "a.npz").config == dataclasses.replace(config, image_size="224")
    found = read_npz(tmp_path / "a.npz", "8")
    assert found.config == config
    assert_same(found.params, model.params)


@pytest.mark.parametrize(
    ("changes", "classes"),
    [
        ({"representation": True}, 5),
        ({"class_token": False, "pooling": "attention"}, None),
        ({"class_token": False, "pooling": "mean", "image_size": "8x12"}, 5),
    ],
)
def test_what_is_written_is_the_older_layout_and_reads_back(tmp_path, changes, classes):
    model = random_vit(dataclasses.replace(CONFIG, **changes), classes)
    write_npz(tmp_path / "a.npz", model)
    with np.load(tmp_path / "a.npz") as stored:
        assert_same({name: stored[name] for name in stored.files}, arrays_of(model.params, OLDER))
    found = read_npz(tmp_path / "a.npz", model.config.image_size)
    assert found.config == model.config
    assert_same(found.params, model.params)
    write_npz(tmp_path / "b.npz", found)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"registers": 2}, "no names for\n  vit/embeddings/registers"),
        ({"layer_scale": 0.1, "qk_norm": True}, "block_0/attention/key_norm/scale"),
        ({"pooling": "token_and_mean"}, "--pooling=token_and_mean beside a class token"),
    ],
)
def test_what_has_no_names(tmp_path, changes, message):
    model = random_vit(dataclasses.replace(CONFIG, depth=1, **changes), 5)
    with pytest.raises(UserError, match=message):
        write_npz(tmp_path / "a.npz", model)
    (tmp_path / "a.npz").touch()
    with pytest.raises(UserError, match="there already"):
        write_npz(tmp_path / "a.npz", model)


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    arrays = arrays_of(random_vit(CONFIG, 5).params)
    del arrays[f"{BLOCKS}10/MlpBlock_0/Dense_1/bias"]
    arrays |= {"strange": np.zeros(2), "head/kernel": np.zeros((12, 4))}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError) as caught:
        read_npz(tmp_path / "a.npz")
    assert {line.strip() for line in str(caught.value).splitlines()[1:]} == {
        f"{BLOCKS}10/MlpBlock_0/Dense_1/bias: missing",
        "strange: unknown",
        "head/kernel: of shape (12, 4), expected (12, 5)",
    }


def write_one_array(file):
    """A file of NumPy's with one array, without a name."""
    with file.open("wb") as opened:
        np.save(opened, np.zeros(1))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.unlink(), "no such file"),
        (cut, "damaged"),
        (lambda file: file.write_bytes(b"nonsense"), "damaged, no .npz file, or holds pickles"),
        (lambda file: np.savez(file, cls=np.array([{}])), "pickles, which are never loaded"),
        (lambda file: np.savez(file, cls=np.zeros(3)), "lacks embedding/kernel"),
        (write_one_array, "no .npz file"),
    ],
)
def test_damaged_files(tmp_path, spoil, message):
    np.savez(tmp_path / "a.npz", **arrays_of(random_vit(CONFIG, 5).params))
    spoil(tmp_path / "a.npz")
    with pytest.raises(UserError, match=message):
        read_npz(tmp_path / "a.npz")


def test_positions_that_make_no_square(tmp_path):
    model = random_vit(dataclasses.replace(CONFIG, image_size="8x12"))
    np.savez(tmp_path / "a.npz", **arrays_of(model.params))
    with pytest.raises(UserError, match=r"positions of 6 patches, no square: type FILE\?image_size="):
        read_npz(tmp_path / "a.npz")
    assert_same(read_npz(tmp_path / "a.npz", "8x12").params, model.params)
