"""Learning to translate by the command: made-up words are learnt, a stopped run goes on, any mesh says the same."""

import dataclasses
import json
import re

import numpy as np
import pytest

from bert_jax.translation_config import PRESETS
from core_jax.errors import UserError
from core_jax.workdir import read_records
from experiments import finetune, predict
from tests.tiny_tuning import stop_after

WORDS = ["one", "two", "three", "four", "five", "six"]
OTHERS = ["eins", "zwei", "drei", "vier", "funf", "sechs"]


def write_pairs(path, count, seed):
    """Sentences of one to four words, each of which has one translation."""
    random, lines = np.random.default_rng(seed), []
    for _ in range(count):
        chosen = random.integers(0, len(WORDS), random.integers(1, 5))
        source, target = (" ".join(side[i] for i in chosen) for side in (WORDS, OTHERS))
        lines.append(json.dumps({"source": source, "target": target}) + "\n")
    path.write_text("".join(lines))


@pytest.fixture
def place(tmp_path):
    write_pairs(tmp_path / "train.jsonl", 256, 0)
    write_pairs(tmp_path / "validation.jsonl", 20, 1)
    return tmp_path


def flags(place, workdir, **changes):
    values = {
        "data": f"jsonl:{place}/train.jsonl",
        "validation_data": f"jsonl:{place}/validation.jsonl",
        "vocab_size": 48,
        "width": 32,
        "mlp_width": 64,
        "depth": 1,
        "encoder_depth": 1,
        "dropout": 0,
        "sequence_length": 16,
        "global_batch_size": 32,
        "learning_rate": 0.01,
        "ema_decay": 0.9,
        "epochs": 2,
        "log_every": 4,
        "workdir": workdir,
    }
    return ["--task=translation", *(f"--{name}={value}" for name, value in (values | changes).items())]


def measured(workdir, split):
    return [(line["step"], line["loss"]) for line in read_records(workdir) if line["split"] == split]


@pytest.mark.slow
def test_made_up_words_are_learnt_and_lines_translated(place, tmp_path, capsys):
    assert finetune.main(flags(place, tmp_path / "run", epochs=20)) == 0
    printed = capsys.readouterr().out
    assert re.search(r"BLEU nrefs:1\|.*\|tok:13a", printed)
    scores = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert scores["chrf"] > 90 > 60 > scores["copy_chrf"]
    capsys.readouterr()
    assert predict.main(["two five", "one", f"--init={tmp_path / 'run'}", "--beams=2", "--length_penalty=1"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found == [{"text": "two five", "translation": "zwei funf"}, {"text": "one", "translation": "eins"}]


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_bits_and_meshes_agree(place, tmp_path, monkeypatch):
    assert finetune.main(flags(place, tmp_path / "whole")) == 0
    with monkeypatch.context() as patched:
        stop_after(patched, 11)
        assert finetune.main(flags(place, tmp_path / "stopped")) != 0
    assert finetune.main(flags(place, tmp_path / "stopped")) == 0
    whole = measured(tmp_path / "whole", "validation")
    assert measured(tmp_path / "stopped", "validation") == whole
    assert len(whole) == 2
    assert finetune.main(flags(place, tmp_path / "mesh", mesh="data:2,tensor:2")) == 0
    np.testing.assert_allclose(measured(tmp_path / "mesh", "validation"), whole, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "huge"}, "--preset=huge: expected one of translation-tiny, translation-base"),
        ({"target_column": "nothing"}, "has no column 'nothing'"),
        ({"tokenizer": "hf:DIR"}, "--tokenizer=hf:DIR: expected sentencepiece"),
    ],
)
def test_mistakes_are_named_before_anything_is_made(place, tmp_path, changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        finetune.main(flags(place, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_values_that_cannot_be_are_refused():
    config = PRESETS["translation-tiny"]
    with pytest.raises(UserError, match="use --sequence_length=256 or less"):
        dataclasses.replace(config, pairs=dataclasses.replace(config.pairs, sequence_length=1000))
    with pytest.raises(UserError, match=r"--causal=True: .* leave it out"):
        dataclasses.replace(config, model=dataclasses.replace(config.model, causal=True))
    with pytest.raises(UserError, match="--width=31: expected an even number"):
        dataclasses.replace(config.model, width=31, heads=1)
    with pytest.raises(UserError, match="--beams=0: expected 1 or more"):
        dataclasses.replace(config, beams=0)
