"""A translator whose encoder starts from a BERT reads as that BERT does, and learns."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import bert_encoders
from bert_jax.model import Bert
from bert_jax.starting_weights import read_foreign
from bert_jax.tokenizer import SPECIAL_PIECES, WordPiece
from bert_jax.translation import Translator, initial_params
from bert_jax.translation_config import PRESETS
from bert_jax.translation_weights import write_hf as write_marian
from bert_jax.weights import write_hf
from core_jax.errors import UserError
from core_jax.sharding import parse_mesh, place_like
from experiments import finetune, predict
from experiments.trained_translators import open_trained
from tests.test_finetune_translation import OTHERS, WORDS, flags, place  # noqa: F401
from tests.test_weights import CONFIG, params_with_heads

PIECES = [*SPECIAL_PIECES, *WORDS, *OTHERS]
BERT = dataclasses.replace(CONFIG, vocab_size=len(PIECES), maximum_positions=24, gelu="erf", norm_epsilon=1e-12)


@pytest.fixture
def bert(tmp_path):
    tokenizer = WordPiece.from_vocabulary(PIECES, lowercase=True)
    write_hf(tmp_path / "bert", BERT, tokenizer, params_with_heads(BERT), "BertModel")
    return f"hf:{tmp_path}/bert"


def started(bert, **changes):
    """Configuration, model and parameters of a translator right after its start."""
    tiny = PRESETS["translation-tiny"]
    tiny = dataclasses.replace(tiny, init_encoder=bert, pairs=dataclasses.replace(tiny.pairs, sequence_length=16))
    config = bert_encoders.adopt_encoder(tiny, print)
    model = dataclasses.replace(config.model, dtype="float32", **changes)
    mesh = parse_mesh("data:1", devices=jax.devices()[:1])
    fresh = jax.jit(initial_params(Translator(model)))(jax.random.key(0))
    return config, model, place_like(fresh, bert_encoders.encoder_params(bert, model, mesh, print), mesh)


@pytest.mark.parametrize("scanned", [False, True])
def test_the_encoder_reads_as_the_bert_that_it_started_from(bert, scanned):
    config, model, params = started(bert, scan_layers=scanned)
    assert (config.model.width, config.model.encoder_depth, config.model.depth) == (BERT.width, BERT.depth, 2)
    random = np.random.default_rng(0)
    tokens = random.integers(0, BERT.vocab_size, (4, 12), dtype=np.int32)
    segments = (np.arange(12) < np.array([12, 5, 1, 9])[:, None]).astype(np.int32)
    theirs = read_foreign(bert)
    encode = Bert(dataclasses.replace(theirs.config, dtype="float32"))
    inputs = jnp.asarray(tokens), jnp.asarray(segments)
    bert_params = {"params": jax.tree.map(jnp.asarray, theirs.params["bert"])}
    expected = encode.apply(bert_params, *inputs, jnp.zeros_like(inputs[0]), method=Bert.encode)
    found: Any = Translator(model).apply({"params": params}, *inputs, method=Translator.encode)
    real = segments > 0
    np.testing.assert_allclose(np.asarray(found.hidden)[real], np.asarray(expected)[real], rtol=1e-5, atol=1e-5)


def test_what_cannot_be_is_refused(bert, tmp_path):
    config, model, params = started(bert)
    with pytest.raises(UserError, match="expected one of them"):
        dataclasses.replace(config, init="runs/translation")
    with pytest.raises(UserError, match="a Marian has"):
        write_marian(tmp_path / "out", model, params)
    other = dataclasses.replace(model, width=24, heads=4)
    mesh = parse_mesh("data:1", devices=jax.devices()[:1])
    with pytest.raises(UserError, match="is no BERT of this translator's sizes"):
        bert_encoders.encoder_params(bert, other, mesh, print)


@pytest.mark.slow
def test_it_starts_there_learns_and_translates(place, bert, tmp_path, capsys):  # noqa: F811
    given = {"init_encoder": bert, "depth": 1, "epochs": 1, "ema_decay": 0}
    assert finetune.main(flags(place, tmp_path / "still", **given, learning_rate=0)) == 0
    found = open_trained(str(tmp_path / "still"), parse_mesh("data:1", devices=jax.devices()[:1]))
    theirs = read_foreign(bert).params["bert"]
    assert found.model.positions == "learned"
    for name in ("embeddings", "encoder"):
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(found.params[name]), theirs[name])
    assert finetune.main(flags(place, tmp_path / "run", **given | {"epochs": 30, "ema_decay": 0.9})) == 0
    capsys.readouterr()
    assert predict.main(["two five", f"--init={tmp_path / 'run'}"]) == 0
    assert '"translation": "zwei funf"' in capsys.readouterr().out
