"""experiments.embed: the vectors of every text in order, however packed, pooled as others do, in any pieces."""

import json
from typing import Any

import jax
import numpy as np
import pytest

from bert_jax.embedding import embed_texts, encoder_params, make_embedder
from bert_jax.labelling import initial_label_params
from bert_jax.model import Bert
from core_jax.errors import UserError
from core_jax.sharding import tree_shardings
from experiments import embed
from tests.labelled_words import CONFIG, LENGTH, WORDS, model, tokenizer
from tests.tiny_training import mesh_of
from tests.tiny_tuning import write_start


def texts(count):
    random = np.random.default_rng(0)
    return [" ".join(random.choice(WORDS, random.integers(1, 25))) for _ in range(count)]


@pytest.fixture(scope="module")
def params() -> Any:
    return initial_label_params(model("classification"))(jax.random.key(0))["bert"]


def alone(params, text):
    """Hidden states of one text in a row of its own."""
    ours = tokenizer()
    ids = np.array([[ours.cls_id, *ours.encode([text])[0], ours.sep_id]], np.int32)
    apply: Any = jax.jit(lambda *inputs: Bert(CONFIG).apply({"params": params}, *inputs, method=Bert.encode))
    length = LENGTH - ids.shape[1]
    padded = np.pad(ids, ((0, 0), (0, length)))
    segments = np.pad(np.ones_like(ids), ((0, 0), (0, length)))
    return np.asarray(apply(padded, segments, np.zeros_like(padded)))[0, : ids.shape[1]]


@pytest.mark.parametrize("mesh_text", ["data:1", "data:8"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_vectors_are_those_of_each_text_alone(params, pooling, mesh_text):
    mesh, some = mesh_of(mesh_text), texts(40)
    embedder = make_embedder(CONFIG, pooling, normalize=pooling == "mean")
    encoder = encoder_params(params, CONFIG)
    placed = jax.device_put(encoder, tree_shardings(encoder, mesh))
    found = embed_texts(embedder, placed, some, tokenizer(), mesh, batch_size=16, sequence_length=LENGTH)
    assert found.shape == (40, CONFIG.width)
    for number in (0, 7, 39):
        states = alone(params, some[number])
        wanted = {"mean": states.mean(0), "cls": states[0], "max": states.max(0)}[pooling]
        wanted = wanted / np.linalg.norm(wanted) if pooling == "mean" else wanted
        np.testing.assert_allclose(found[number], wanted, rtol=1e-4, atol=1e-5)


def test_a_stopped_command_goes_on_and_writes_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(embed, "TEXTS_AT_ONCE", 16)
    write_start(tmp_path / "start")
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(40)))
    arguments = [f"--init=hf:{tmp_path}/start", f"--data=jsonl:{tmp_path}/texts.jsonl", "--sequence_length=32"]
    arguments += ["--mesh=data:1"]
    assert embed.main([*arguments, f"--output={tmp_path}/whole.npy"]) == 0
    asked = []

    def stop_at_the_second(self):
        asked.append(0)
        return len(asked) == 2

    monkeypatch.setattr(embed.StopRequest, "__call__", stop_at_the_second)
    embed.main([*arguments, f"--output={tmp_path}/again.npy"])
    assert not (tmp_path / "again.npy").exists()
    with pytest.raises(UserError, match=r"of another command.*--pooling"):
        embed.main([*arguments, f"--output={tmp_path}/again.npy", "--pooling=cls"])
    assert embed.main([*arguments, f"--output={tmp_path}/again.npy"]) == 0
    assert not (tmp_path / "again.npy.parts").exists()
    whole, again = np.load(tmp_path / "whole.npy"), np.load(tmp_path / "again.npy")
    assert whole.shape == (40, CONFIG.width)
    np.testing.assert_array_equal(whole, again)
    assert "40 vectors of 16 numbers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--sequence_length=64"], "longer than the position table"),
        (["--data=jsonl:nowhere.jsonl"], "nowhere.jsonl"),
        (["--init=nowhere"], "not a work folder"),
    ],
)
def test_mistakes(tmp_path, changes, message):
    write_start(tmp_path / "start")
    (tmp_path / "texts.txt").write_text("w1 w2\n")
    arguments = [f"--init=hf:{tmp_path}/start", f"--data=text:{tmp_path}/texts.txt", f"--output={tmp_path}/out.npy"]
    with pytest.raises(UserError, match=message):
        embed.main([*arguments, *changes])
