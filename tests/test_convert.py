"""A BERT is carried over to another program and back, and computes there what it computes here."""

import dataclasses
import json
import sys

import jax
import numpy as np
import pytest

from bert_jax.peer_config import to_peer_config
from bert_jax.weights import ARCHITECTURES, read_hf, write_hf
from core_jax.errors import UserError
from experiments import convert, fill_masks, predict, pretrain, verification
from tests.test_weights import CONFIG, TOKENIZER, assert_same, params_with_heads, write
from tests.tiny_run import flags, write_text

ODD = dataclasses.replace(CONFIG, width=30, depth=3, heads=5, mlp_width=44, maximum_positions=23)
STEPS = {"steps": 4, "warmup_steps": 2, "checkpoint_every": 4, "evaluate_every": 0, "log_every": 4}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The work folder of a run of a few steps."""
    folder = tmp_path_factory.mktemp("trained")
    assert pretrain.main(flags(folder / "run", write_text(folder / "text.txt"), **STEPS)) == 0
    return folder


def test_a_run_to_a_folder_and_back(trained, tmp_path):
    assert convert.main([str(trained / "run"), f"hf:{tmp_path}/there"]) == 0
    assert convert.main([f"hf:{tmp_path}/there", f"{tmp_path}/back"]) == 0
    first, second = convert.read(str(trained / "run")), convert.read(f"{tmp_path}/back")
    assert_same(second.params, first.params)
    assert_same(read_hf(tmp_path / "there").params, first.params)
    assert second.tokenizer.encode(["w1 w2."]) == first.tokenizer.encode(["w1 w2."])
    assert predict.main([f"--init={tmp_path}/back", "w1 [MASK] w3."]) == 0
    with pytest.raises(UserError, match="nothing is overwritten"):
        convert.main([f"hf:{tmp_path}/there", f"{tmp_path}/back"])


@pytest.mark.slow
def test_pretraining_goes_on_from_a_folder_without_heads(trained, tmp_path, capsys):
    run = convert.read(str(trained / "run"))
    encoder = jax.tree.map(lambda leaf: leaf + np.float32(0.01), run.params)  # not what a fresh start could be
    write_hf(tmp_path / "encoder", run.config, run.tokenizer, encoder, "BertModel")
    given = {"init": f"hf:{tmp_path}/encoder", "width": 64, "heads": 1, "learning_rate": 0, "mesh": "data:4,fsdp:2"}
    command = flags(tmp_path / "run", trained / "text.txt", **STEPS | given)
    assert pretrain.main(command) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "sets, instead of bert-tiny: width 16, heads 2" in said
    assert "has no token_prediction, next_sentence_classifier: drawn fresh" in said
    config = json.loads((tmp_path / "run" / "config.json").read_text())["model"]
    assert (config["width"], config["heads"], config["vocab_size"]) == (16, 2, run.tokenizer.vocab_size)
    # A learning rate of 0 leaves the parameters as they were at the start.
    found = convert.read(f"{tmp_path}/run")
    assert_same(found.params["bert"], encoder["bert"])
    assert found.tokenizer.encode(["w1 w2."]) == run.tokenizer.encode(["w1 w2."])
    assert pretrain.main(command) == 0
    assert "is finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hf:nowhere", "run"], r"holds no config\.json"),
        (["nowhere", "hf:out"], "not a work folder"),
        (["tf:nowhere/model.ckpt", "run"], "no nowhere/model.ckpt.index"),
        (["run", "tf:out"], "are read, not written"),
    ],
)
def test_what_cannot_be_converted(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        convert.main(arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_table_may_have_more_rows_than_the_vocabulary(tmp_path):
    larger = dataclasses.replace(CONFIG, vocab_size=20)
    write_hf(tmp_path / "out", larger, TOKENIZER, params_with_heads(larger), "BertModel")
    assert convert.main([f"hf:{tmp_path}/out", f"{tmp_path}/run"]) == 0
    assert convert.main([f"{tmp_path}/run", f"hf:{tmp_path}/again"]) == 0
    first, second = (read_hf(tmp_path / name).params["bert"]["embeddings"] for name in ("out", "again"))
    assert np.array_equal(first["token"]["embedding"], second["token"]["embedding"])


def test_verify_without_the_peer(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    write(tmp_path / "out")
    with pytest.raises(UserError, match=r"pip install -e '\.\[parity\]'"):
        convert.main([f"hf:{tmp_path}/out", f"{tmp_path}/run", "--verify"])
    assert not (tmp_path / "run").exists()


def test_differences_are_seen_and_padding_is_not():
    inputs = verification.random_inputs(ODD)
    ours = {"states": np.zeros((4, 23, 3), np.float32), "pooled": np.zeros((4, 3), np.float32)}
    theirs = {name: value.copy() for name, value in ours.items()}
    theirs["states"][inputs["segments"] == 0] = 9
    theirs["pooled"][2, 1] = -0.5
    assert verification.greatest_differences(ours, theirs, inputs) == {"states": 0.0, "pooled": 0.5}


@pytest.mark.parametrize("gelu", ["erf", "tanh"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_peer_opens_every_architecture_and_agrees(tmp_path, architecture, gelu):
    transformers = pytest.importorskip("transformers")
    config, classes = dataclasses.replace(ODD, gelu=gelu), 1 if architecture == "BertForMultipleChoice" else 3
    labels = ["x", "y", "z"] if "Classification" in architecture else None
    folder = tmp_path / "ours"
    write_hf(folder, config, TOKENIZER, params_with_heads(config, classes), architecture, labels)
    kind = getattr(transformers, architecture)
    model, loading = kind.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    assert not any(loading.values())
    model.save_pretrained(tmp_path / "theirs")
    TOKENIZER.save(tmp_path / "theirs")
    imported = read_hf(tmp_path / "theirs")  # as the peer writes it
    assert_same(imported.params, read_hf(folder).params)
    assert imported.labels == labels
    inputs = verification.random_inputs(config)
    ours = verification.our_outputs(imported, inputs)
    theirs = verification.peer_outputs(folder, architecture, inputs)
    assert max(verification.greatest_differences(ours, theirs, inputs).values()) < 1e-5
    assert verification.PEER_LOGITS.get(architecture, {}).keys() <= ours.keys()


def test_pretrained_here_fills_masks_there(trained, tmp_path):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    assert convert.main([str(trained / "run"), f"hf:{tmp_path}/there", "--verify"]) == 0
    run = convert.open_trained(str(trained / "run"), convert.parse_mesh("data:1", devices=jax.devices()[:1]), print)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "there")
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "there").eval()
    text = "w1 [MASK] w3 w17 [MASK]."
    inputs = tokenizer(text, return_tensors="pt")
    tokens = fill_masks.encode(text, run.tokenizer, run.config.model.maximum_positions)
    np.testing.assert_array_equal(inputs["input_ids"][0].numpy(), tokens)
    with torch.inference_mode():
        logits = model(**inputs).logits[0][tokens == run.tokenizer.mask_id]
    np.testing.assert_allclose(fill_masks.probabilities(run, tokens), logits.softmax(-1).numpy(), atol=1e-5)


def test_verify_notices_another_model(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    write(tmp_path / "out")
    right = verification.our_outputs

    def other_gelu(imported, inputs):
        return right(dataclasses.replace(imported, config=dataclasses.replace(imported.config, gelu="tanh")), inputs)

    monkeypatch.setattr(verification, "our_outputs", other_gelu)
    assert convert.main([f"hf:{tmp_path}/out", f"{tmp_path}/run", "--verify"]) == 1


def test_a_config_names_its_classes():
    fields = to_peer_config(CONFIG, "BertForSequenceClassification", ["bad", "good"], 0)
    assert json.loads(json.dumps(fields))["id2label"] == {"0": "bad", "1": "good"}
    assert fields["label2id"] == {"bad": 0, "good": 1}
