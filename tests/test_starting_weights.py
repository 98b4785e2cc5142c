"""What --init=hf:DIR starts from: the checkpoint where it has the parameters, a fresh draw where not, on any mesh."""

import dataclasses
import pathlib

import jax
import pytest

from bert_jax.config import PRESETS
from bert_jax.model import BertForPretraining
from bert_jax.starting_weights import adopt_architecture, complete
from bert_jax.tasks import initial_params
from bert_jax.weights import read_hf, write_hf
from core_jax.config import to_json
from core_jax.errors import UserError
from core_jax.sharding import path_name, tree_shardings
from core_jax.transformer import stack_layers
from tests.peer_reference import random_params
from tests.test_weights import CONFIG, TOKENIZER, assert_same, write
from tests.tiny_training import mesh_of


@pytest.mark.parametrize("mesh_text", ["data:1", "data:2,fsdp:2,tensor:2"])
@pytest.mark.parametrize("scanned", [False, True])
def test_what_a_checkpoint_lacks_is_drawn_fresh(tmp_path, mesh_text, scanned):
    config = dataclasses.replace(CONFIG, scan_layers=scanned, heads=2)
    unscanned = dataclasses.replace(config, scan_layers=False)
    write_hf(tmp_path / "out", config, TOKENIZER, random_params(unscanned, 0), "BertModel")
    imported, mesh = read_hf(tmp_path / "out"), mesh_of(mesh_text)
    fresh = initial_params(BertForPretraining(config))(jax.random.key(3))
    fresh = jax.device_put(fresh, tree_shardings(fresh, mesh))
    params, lacking = complete(imported.params, config, fresh, mesh)
    assert lacking == ["token_prediction", "next_sentence_classifier"]
    expected = random_params(unscanned, 0)["bert"]
    expected |= {"encoder": stack_layers(expected["encoder"])} if scanned else {}
    assert_same(params["bert"], expected)
    for name in lacking:
        assert_same(params[name], fresh[name])
    shardings = {path_name(path): leaf.sharding for path, leaf in jax.tree.leaves_with_path(params)}
    assert shardings == {path_name(path): leaf.sharding for path, leaf in jax.tree.leaves_with_path(fresh)}


def test_sizes_are_those_of_the_checkpoint(tmp_path):
    folder: pathlib.Path = write(tmp_path / "out")
    base = PRESETS["bert-tiny"]
    short = dataclasses.replace(base.text, sequence_length=8)
    said = []
    adopted = adopt_architecture(dataclasses.replace(base, init=f"hf:{folder}", text=short), said.append)
    # Dropout and how it is computed stay as asked; what is of the checkpoint does not.
    kept = {name: getattr(base.model, name) for name in ("dropout", "attention_dropout", "initializer_range")}
    assert adopted.model == dataclasses.replace(CONFIG, **kept)
    [line] = said
    assert "width 12" in line
    assert "norm " not in line  # as it is in the preset
    with pytest.raises(UserError, match="longer than the position table"):
        adopt_architecture(dataclasses.replace(base, init=f"hf:{folder}"), said.append)
    assert adopt_architecture(base, said.append) is base


def test_sizes_are_those_of_a_work_folder(tmp_path):
    """As `transformers` folders are read: nobody should have to type the sizes of a run again."""
    base = PRESETS["bert-tiny"]
    other = dataclasses.replace(base.model, width=24, depth=1, heads=3, gelu="tanh", dropout=0.3)
    (tmp_path / "config.json").write_text(to_json(dataclasses.replace(base, model=other)))
    said = []
    adopted = adopt_architecture(dataclasses.replace(base, init=str(tmp_path)), said.append)
    assert adopted.model == dataclasses.replace(other, dropout=base.model.dropout)
    assert "width 24" in said[0]
    with pytest.raises(UserError, match="not a work folder"):
        adopt_architecture(dataclasses.replace(base, init="nowhere"), said.append)
