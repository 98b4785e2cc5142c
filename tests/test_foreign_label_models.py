"""BERTs of other programs that label texts: carried in with their heads and names, used at once, back to the bit."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from bert_jax.foreign_label_models import is_label_model
from bert_jax.weights import LABEL_ARCHITECTURES, read_hf, write_hf
from core_jax.errors import UserError
from experiments import convert, evaluate, predict
from tests.test_weights import CONFIG, TOKENIZER, assert_same, params_with_heads

LABELS = ["bad", "fair", "good"]
SIZED = dataclasses.replace(CONFIG, maximum_positions=16)


def write_model(folder, head):
    """A folder with the head of a task."""
    classes = 3 if head in ("classification", "token") else 1
    labels = LABELS if classes == 3 else ["LABEL_0"] if head == "regression" else None
    write_hf(folder, SIZED, TOKENIZER, params_with_heads(SIZED, classes), LABEL_ARCHITECTURES[head], labels)
    return f"hf:{folder}"


@pytest.mark.parametrize("head", LABEL_ARCHITECTURES)
def test_in_and_out_is_the_identity(tmp_path, head):
    source = write_model(tmp_path / "theirs", head)
    assert convert.main([source, str(tmp_path / "run")]) == 0
    assert convert.main([str(tmp_path / "run"), f"hf:{tmp_path}/again"]) == 0
    first, again = read_hf(tmp_path / "theirs"), read_hf(tmp_path / "again")
    assert_same(again.params, first.params)
    assert (again.labels, again.architecture) == (first.labels, LABEL_ARCHITECTURES[head])


@pytest.mark.parametrize("head", LABEL_ARCHITECTURES)
def test_the_peer_agrees(tmp_path, head):
    pytest.importorskip("transformers")
    source = write_model(tmp_path / "theirs", head)
    assert convert.main([source, str(tmp_path / "run"), "--verify"]) == 0


def test_it_labels_where_it_is_as_in_a_work_folder(tmp_path, capsys):
    source = write_model(tmp_path / "theirs", "classification")
    assert is_label_model(source)
    convert.main([source, str(tmp_path / "run")])
    capsys.readouterr()
    answers = []
    for init in (source, str(tmp_path / "run")):
        assert predict.main([f"--init={init}", "a b", "k c d", "--mesh=data:1"]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]
    assert set(json.loads(answers[0].splitlines()[0])["probabilities"]) == set(LABELS)
    (tmp_path / "few.jsonl").write_text('{"text": "a b", "label": "good"}\n{"text": "c", "label": "bad"}\n')
    data = f"--data=jsonl:{tmp_path}/few.jsonl"
    assert evaluate.main([f"--init={source}", data, f"--output={tmp_path}/scores.json", "--mesh=data:1"]) == 0
    assert json.loads((tmp_path / "scores.json").read_text())["examples"] == 2
    with pytest.raises(UserError, match=r"--data=: expected labelled texts"):
        evaluate.main([f"--init={source}"])


def test_a_pooler_to_spare_is_left_out(tmp_path):
    """Older versions saved one beside the classifier of tokens."""
    source = write_model(tmp_path / "theirs", "classification")
    file = tmp_path / "theirs/config.json"
    file.write_text(file.read_text().replace("BertForSequenceClassification", "BertForTokenClassification"))
    assert convert.main([source, f"hf:{tmp_path}/out"]) == 0
    assert "pooler" not in read_hf(tmp_path / "out").params["bert"]
    assert convert.main([source, str(tmp_path / "run")]) == 0
    found = convert.read(str(tmp_path / "run")).params
    np.testing.assert_array_equal(
        *(jax.device_get(p["classifier"]["dense"]["kernel"]) for p in (found, read_hf(tmp_path / "theirs").params))
    )


def test_a_head_that_is_named_but_not_there_is_none(tmp_path):
    write_hf(tmp_path / "plain", SIZED, TOKENIZER, params_with_heads(SIZED, 3), "BertModel")
    file = tmp_path / "plain/config.json"
    file.write_text(file.read_text().replace("BertModel", "BertForSequenceClassification"))
    assert read_hf(tmp_path / "plain").architecture is None
    with pytest.raises(UserError, match="has no head that labels texts"):
        predict.main([f"--init=hf:{tmp_path}/plain", "a b"])


def test_one_that_labels_nothing(tmp_path):
    write_hf(tmp_path / "plain", SIZED, TOKENIZER, params_with_heads(SIZED, 3), "BertModel")
    assert not is_label_model(f"hf:{tmp_path}/plain")
    assert not is_label_model("hf:nowhere")
