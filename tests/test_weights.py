"""Weights of other programs: names, shapes and values by hand, every bad file refused, and the way back to the bit."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from bert_jax.config import BertConfig
from bert_jax.peer_names import TABLE, our_path, peer_name
from bert_jax.tensorflow_weights import read_tf
from bert_jax.tokenizer import SPECIAL_PIECES, WordPiece
from bert_jax.weights import ARCHITECTURES, read_hf, write_hf
from core_jax.errors import UserError
from core_jax.safetensors_files import FILE, INDEX
from core_jax.transformer import stack_layers
from tests.peer_reference import random_params
from tests.tiny_bert import change_layers

CONFIG = BertConfig(
    width=12, depth=2, heads=3, mlp_width=20, vocab_size=16, maximum_positions=9, type_vocab_size=1, gelu="erf"
)
TOKENIZER = WordPiece.from_vocabulary([*SPECIAL_PIECES, *"abcdefghijk"], lowercase=True)
LAYER = {
    "attention.self.query": (12, 12),
    "attention.self.key": (12, 12),
    "attention.self.value": (12, 12),
    "attention.output.dense": (12, 12),
    "attention.output.LayerNorm": None,
    "intermediate.dense": (20, 12),
    "output.dense": (12, 20),
    "output.LayerNorm": None,
}
# As `transformers` saves BertForPreTraining.
SHAPES = {
    "bert.embeddings.word_embeddings.weight": (16, 12),
    "bert.embeddings.position_embeddings.weight": (9, 12),
    "bert.embeddings.token_type_embeddings.weight": (1, 12),
    **{f"bert.embeddings.LayerNorm.{leaf}": (12,) for leaf in ("weight", "bias")},
    **{
        f"bert.encoder.layer.{i}.{name}.{leaf}": (shape or (12,)) if leaf == "weight" else (shape or (12,))[:1]
        for i in range(2)
        for name, shape in LAYER.items()
        for leaf in ("weight", "bias")
    },
    "bert.pooler.dense.weight": (12, 12),
    "bert.pooler.dense.bias": (12,),
    "cls.predictions.bias": (16,),
    "cls.predictions.transform.dense.weight": (12, 12),
    **{f"cls.predictions.transform.{name}": (12,) for name in ("dense.bias", "LayerNorm.weight", "LayerNorm.bias")},
    "cls.seq_relationship.weight": (2, 12),
    "cls.seq_relationship.bias": (2,),
}


def params_with_heads(config=CONFIG, classes=3):
    random = np.random.default_rng(1)
    draw = lambda *shape: random.standard_normal(shape).astype(np.float32)  # noqa: E731
    heads = {
        name: {"dense": {"kernel": draw(config.width, outputs), "bias": draw(outputs)}}
        for name, outputs in (("classifier", classes), ("span_classifier", 2))
    }
    return random_params(config, 0) | heads


def write(folder, architecture="BertForPreTraining", config=CONFIG, **changes):
    write_hf(folder, config, TOKENIZER, params_with_heads(), architecture, **changes)
    return folder


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def change_tensors(folder, change):
    """Writes the tensors of a folder again, changed."""
    tensors = dict(safetensors.numpy.load_file(folder / FILE))
    safetensors.numpy.save_file(change(tensors), folder / FILE)


def change_config(folder, **changes):
    fields = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({name: value for name, value in fields.items() if value != "gone"}))


def test_names_and_shapes_on_disk_are_those_of_the_peer(tmp_path):
    tensors = safetensors.numpy.load_file(write(tmp_path / "out") / FILE)
    assert {name: value.shape for name, value in tensors.items()} == SHAPES
    ours = random_params(CONFIG, 0)["bert"]
    attention = ours["encoder"]["block_1"]["attention"]
    theirs = tensors["bert.encoder.layer.1.attention.self.key.weight"]
    # Unit 1 of head 2 is unit 2 * 4 + 1 there, and inputs are columns.
    np.testing.assert_array_equal(theirs[9], attention["key"]["kernel"][:, 2, 1])
    assert tensors["bert.encoder.layer.1.attention.self.key.bias"][9] == attention["key"]["bias"][2, 1]
    out = tensors["bert.encoder.layer.1.attention.output.dense.weight"]
    np.testing.assert_array_equal(out[:, 9], attention["out"]["kernel"][2, 1])
    np.testing.assert_array_equal(tensors["bert.pooler.dense.weight"], ours["pooler"]["dense"]["kernel"].T)
    word = tensors["bert.embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(word, ours["embeddings"]["token"]["embedding"])


def test_every_name_leads_back_to_its_path():
    paths = [path.replace("#", "11") for path in TABLE]
    assert [our_path(peer_name(path)) for path in paths] == paths
    assert [our_path(name) for name in ("bert.pooler.dense.scale", "bert.pooler", "lm_head.weight", "weight")] == [
        None
    ] * 4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("scanned", [False, True])
def test_there_and_back_is_the_identity(tmp_path, architecture, scanned):
    params = params_with_heads()
    given = change_layers(params, stack_layers) if scanned else params
    labels = ["x", "y", "z"] if "classifier" in ARCHITECTURES[architecture] else None
    write_hf(tmp_path / "a", CONFIG, TOKENIZER, given, architecture, labels)
    first = read_hf(tmp_path / "a")
    assert first.config == CONFIG
    assert first.labels == labels
    assert first.tokenizer.encode(["abc k"]) == TOKENIZER.encode(["abc k"])
    bert = dict(params["bert"])
    if "bert/pooler" not in ARCHITECTURES[architecture]:
        del bert["pooler"]
    heads = {name: params[name] for name in ARCHITECTURES[architecture] if "/" not in name}
    assert_same(first.params, {"bert": bert} | heads)
    write_hf(tmp_path / "b", first.config, first.tokenizer, first.params, architecture, first.labels)
    for name in ("config.json", FILE, "vocab.txt", "tokenizer.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}  # no temporary folder is left


def older(name):
    name = name.removeprefix("bert.")
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def test_older_names_shards_tied_copies_and_halves(tmp_path):
    folder = write(tmp_path / "out")
    tensors = safetensors.numpy.load_file(folder / FILE)
    (folder / FILE).unlink()
    halves: dict[str, np.ndarray] = {older(name): value.astype(np.float16) for name, value in tensors.items()}
    halves["embeddings.position_ids"] = np.arange(9)
    halves["cls.predictions.decoder.weight"] = halves["embeddings.word_embeddings.weight"]
    halves["cls.predictions.decoder.bias"] = halves.pop("cls.predictions.bias")
    owners = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(halves)}
    for shard in set(owners.values()):
        safetensors.numpy.save_file({name: halves[name] for name in halves if owners[name] == shard}, folder / shard)
    (folder / INDEX).write_text(json.dumps({"weight_map": owners}))
    expected = jax.tree.map(lambda leaf: leaf.astype(np.float16).astype(np.float32), random_params(CONFIG, 0))
    assert_same(read_hf(folder).params, expected)
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(UserError, match=r"lacks model-1\.safetensors"):
        read_hf(folder)


def test_bfloat16_is_read(tmp_path):
    halve = lambda tensors: {name: value.astype(jnp.bfloat16) for name, value in tensors.items()}  # noqa: E731
    change_tensors(write(tmp_path / "out"), halve)
    expected = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(np.float32), random_params(CONFIG, 0))
    assert_same(read_hf(tmp_path / "out").params, expected)


def test_all_that_is_wrong_with_tensors_is_said_at_once(tmp_path):
    def spoil(tensors):
        del tensors["bert.encoder.layer.1.output.dense.bias"], tensors["cls.seq_relationship.bias"]
        tensors["bert.pooler.dense.weight"] = tensors["bert.pooler.dense.weight"][:5]
        wrong = tensors["bert.embeddings.word_embeddings.weight"] + 1
        return tensors | {"bert.encoder.layer.7.strange": np.zeros(2), "cls.predictions.decoder.weight": wrong}

    change_tensors(write(tmp_path / "out"), spoil)
    with pytest.raises(UserError) as caught:
        read_hf(tmp_path / "out")
    assert {line.strip() for line in str(caught.value).splitlines()[1:]} == {
        "bert.encoder.layer.1.output.dense.bias: missing",
        "cls.seq_relationship.bias: missing",
        "bert.encoder.layer.7.strange: unknown",
        "bert.pooler.dense.weight: of shape (5, 12), expected (12, 12)",
        "cls.predictions.decoder.weight: differs from bert.embeddings.word_embeddings.weight, to which it must be tied",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu', expected one of gelu, gelu_new, gelu_pytorch_tanh"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"model_type": "roberta"}, "model_type is 'roberta', expected 'bert'"),
        ({"hidden_size": "gone"}, "hidden_size is missing"),
        ({"hidden_size": "wide"}, "cannot be read"),
        ({"vocab_size": 15}, r"\(16, 12\), expected \(15, 12\)"),
        ({"num_attention_heads": 5}, "does not divide"),
    ],
)
def test_configs_of_other_models(tmp_path, changes, message):
    change_config(write(tmp_path / "out"), **changes)
    with pytest.raises(UserError, match=message):
        read_hf(tmp_path / "out")


@pytest.mark.parametrize("gelu", ["gelu_new", "gelu_pytorch_tanh"])
def test_both_names_of_tanh(tmp_path, gelu):
    change_config(write(tmp_path / "out"), hidden_act=gelu)
    assert read_hf(tmp_path / "out").config == dataclasses.replace(CONFIG, gelu="tanh")


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: cut(folder / FILE), "damaged or no safetensors file"),
        (lambda folder: (folder / FILE).rename(folder / "pytorch_model.bin"), "pickle can run any code"),
        (lambda folder: (folder / FILE).unlink(), f"holds no {FILE}"),
        (lambda folder: (folder / FILE).rename(folder / INDEX), "cannot be read"),
        (lambda folder: (folder / "config.json").unlink(), r"holds no config\.json"),
        (lambda folder: cut(folder / "config.json"), "cannot be read"),
        (lambda folder: [(folder / name).unlink() for name in ("vocab.txt", "tokenizer.json")], "no tokenizer"),
    ],
)
def test_damaged_folders(tmp_path, spoil, message):
    spoil(write(tmp_path / "out"))
    with pytest.raises(UserError, match=message):
        read_hf(tmp_path / "out")


def test_what_cannot_be_written(tmp_path):
    params = random_params(CONFIG, 0)
    for architecture, message in (("Bart", "expected one of BertModel"), ("BertForTokenClassification", "classifier")):
        with pytest.raises(UserError, match=message):
            write_hf(tmp_path / "out", CONFIG, TOKENIZER, params, architecture)
    write(tmp_path / "out")
    with pytest.raises(UserError, match="there already"):
        write(tmp_path / "out")
    with pytest.raises(UserError, match="labels repeat"):
        write(tmp_path / "other", "BertForSequenceClassification", labels=["x", "x", "y"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def as_original(name, value):
    """A tensor of the peer as google-research/bert names and shapes it."""
    special = {
        "cls.seq_relationship.weight": "cls/seq_relationship/output_weights",
        "cls.seq_relationship.bias": "cls/seq_relationship/output_bias",
        "cls.predictions.bias": "cls/predictions/output_bias",
    }
    if name in special:
        return special[name], value
    name = name.replace("layer.", "layer_").replace(".", "/")
    if "LayerNorm" in name:
        return name.replace("weight", "gamma").replace("LayerNorm/bias", "LayerNorm/beta"), value
    if name.endswith("_embeddings/weight"):
        return name.removesuffix("/weight"), value
    return (name.replace("weight", "kernel"), value.T) if name.endswith("weight") else (name, value)


def test_the_original_checkpoint(tmp_path):
    folder = write(tmp_path / "out")
    tensors = safetensors.numpy.load_file(folder / FILE)
    variables = dict(as_original(name, value) for name, value in tensors.items())
    variables |= {f"{name}/adam_m": value for name, value in variables.items()} | {"global_step": np.array(5)}
    (folder / "config.json").rename(folder / "bert_config.json")
    (folder / "model.ckpt.index").touch()
    asked = []
    found = read_tf(str(folder / "model.ckpt"), lambda prefix: asked.append(prefix) or variables)
    assert asked == [str(folder / "model.ckpt")]
    assert found.config == dataclasses.replace(CONFIG, gelu="tanh")
    assert_same(found.params, random_params(CONFIG, 0))
    with pytest.raises(UserError, match=r"no .*other\.ckpt\.index"):
        read_tf(str(folder / "other.ckpt"), lambda prefix: variables)
