"""T5 folders of `transformers`: vocabulary, conversion both ways, a start of training, the same translations."""

import json
import pickle
import re

import jax
import numpy as np
import pytest

from bert_jax.t5_vocabulary import MODEL, T5Vocabulary
from bert_jax.tokenizer_files import load_tokenizer
from bert_jax.tokenizer_training import train_t5_vocabulary
from core_jax.errors import UserError
from experiments import convert, finetune, predict, translator_conversion
from tests.test_finetune_translation import OTHERS, WORDS, flags, place  # noqa: F401
from tests.translator_folders import assert_there_and_back

TEXTS = ["two five one", "one", "  six four   three two", "one unheard word♥", "two <extra_id_1> one<extra_id_0>"]
SENTINELS = 3


def words():
    return [f"{a} {b}" for side in (WORDS, OTHERS) for a in side for b in side]


def vocabulary(rows=40):
    model = train_t5_vocabulary(words(), 30).model_proto()
    settings = json.dumps({"extra_ids": SENTINELS, "model_vocab_size": rows}).encode()
    return T5Vocabulary({MODEL: model, "tokenizer_config.json": settings})


def peer_folder(folder):
    """A small random T5 1.1, as `transformers` writes it, with more ids than pieces."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    tokenizer = vocabulary()
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=tokenizer.vocab_size,
        d_model=22,
        d_kv=5,
        d_ff=40,
        num_layers=2,
        num_decoder_layers=1,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
        initializer_factor=1.0,
    )
    model = transformers.T5ForConditionalGeneration(config).eval()
    with torch.no_grad():  # what no text has is never written
        model.shared.weight[33:] = 0
        model.shared.weight *= 0.5
    model.save_pretrained(folder)
    tokenizer.save(folder)
    return transformers, torch, model


def test_pieces_and_sentinels_have_the_ids_of_the_peer(tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = vocabulary()
    ours.save(tmp_path)
    peer = transformers.T5Tokenizer.from_pretrained(tmp_path)
    for tokenizer in (ours, load_tokenizer(tmp_path), pickle.loads(pickle.dumps(ours))):
        assert (tokenizer.vocab_size, tokenizer.pad_id, tokenizer.start_id, tokenizer.end_id) == (40, 0, 0, 1)
        assert [[*row, 1] for row in tokenizer.encode(TEXTS)] == peer(TEXTS)["input_ids"]
        ids = [0, *tokenizer.encode(["drei zwei one"])[0], 32, 1]
        assert tokenizer.decode([*ids, 39]) == peer.decode(ids, skip_special_tokens=True) == "drei zwei one"
    assert ours.piece(32) == "<extra_id_0>"
    with pytest.raises(UserError, match="30 pieces, which are with 3 sentinels more than the 32 of the model"):
        vocabulary(32)


def test_a_vocabulary_that_was_trained_is_one_for_the_peer(tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = train_t5_vocabulary(words(), 30)
    ours.save(tmp_path)
    assert load_tokenizer(tmp_path).encode(TEXTS[:4]) == ours.encode(TEXTS[:4])
    theirs = transformers.T5Tokenizer.from_pretrained(tmp_path)(TEXTS[:4])["input_ids"]
    assert theirs == [[*row, 1] for row in ours.encode(TEXTS[:4])]


def test_a_folder_that_the_peer_saved_again_has_the_same_pieces(tmp_path):
    """Its newer versions write a tokenizer.json in place of spiece.model."""
    transformers = pytest.importorskip("transformers")
    ours = vocabulary()
    ours.save(tmp_path / "ours")
    transformers.T5Tokenizer.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    if (tmp_path / "theirs" / MODEL).exists():
        (tmp_path / "theirs" / MODEL).unlink()
    again = load_tokenizer(tmp_path / "theirs")
    texts = [*TEXTS, " \u00bd  \u2460 \u00e9e\u0301 \u3000two\tone\n", "two" * 30]
    assert again.encode(texts) == ours.encode(texts)
    assert [again.piece(index) for index in range(40)] == [ours.piece(index) for index in range(40)]
    assert (again.pad_id, again.start_id, again.end_id, again.vocab_size) == (0, 0, 1, 40)
    again.save(tmp_path / "last")
    assert load_tokenizer(tmp_path / "last").encode(texts) == ours.encode(texts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "its normalizer has Lowercase; expected one table"),
        ({"added_tokens": [{"id": 9, "content": "<extra_id_0>"}]}, "<extra_id_0> has the id 9; expected 4"),
        ({"model": {"type": "Unigram", "vocab": [["<pad>", 0]], "unk_id": 3}}, "its unk_id is 3; expected the number"),
    ],
)
def test_other_kinds_of_vocabulary_are_refused(tmp_path, change, message):
    pieces = [[piece, 0.0] for piece in ("<pad>", "</s>", "<unk>", "\u2581a")]
    content = {"model": {"type": "Unigram", "vocab": pieces, "unk_id": 2}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content | change))
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(UserError, match=re.escape(message)):
        load_tokenizer(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("is_newer", [False, True])
def test_there_and_back_is_the_identity_and_the_peer_agrees(is_newer, tmp_path, capsys):
    transformers, *_ = peer_folder(tmp_path / "peer")
    if is_newer:
        transformers.T5Tokenizer.from_pretrained(tmp_path / "peer").save_pretrained(tmp_path / "peer")
        (tmp_path / "peer" / MODEL).unlink()
    assert_there_and_back(tmp_path, TEXTS, (MODEL, "tokenizer_config.json"), capsys)


@pytest.mark.slow
def test_predict_translates_as_the_peer(tmp_path, capsys):
    transformers, torch, model = peer_folder(tmp_path / "peer")
    texts = TEXTS[:3]
    assert predict.main([*texts, f"--init=hf:{tmp_path}/peer", "--beams=3", "--length_penalty=0.8"]) == 0
    found = [json.loads(line)["translation"] for line in capsys.readouterr().out.splitlines()]
    peer = transformers.T5Tokenizer.from_pretrained(tmp_path / "peer")
    inputs = peer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        search = {"num_beams": 3, "length_penalty": 0.8, "bad_words_ids": [[0]]}
        theirs = model.generate(**inputs, **search, max_new_tokens=66)
    assert found == peer.batch_decode(theirs, skip_special_tokens=True)
    assert len(set(found)) > 1


@pytest.mark.slow
def test_training_goes_on_from_a_t5(place, tmp_path):  # noqa: F811
    peer_folder(tmp_path / "peer")
    given = {"init": f"hf:{tmp_path}/peer", "learning_rate": 0, "ema_decay": 0, "dtype": "float32"}
    assert finetune.main(flags(place, tmp_path / "run", **given, epochs=1)) == 0
    start, run = (translator_conversion.read(x) for x in (f"hf:{tmp_path}/peer", f"{tmp_path}/run"))
    jax.tree.map(np.testing.assert_array_equal, run.params, start.params)
    assert run.tokenizer.encode(TEXTS) == start.tokenizer.encode(TEXTS)


@pytest.mark.slow
def test_a_t5_of_the_preset_learns_made_up_words(place, tmp_path, capsys):  # noqa: F811
    sizes = {"preset": "t5-tiny", "depth": 1, "encoder_depth": 1, "heads": 4, "epochs": 30, "mlp_dropout": 0}
    sizes |= {"learning_rate": 0.004}
    assert finetune.main(flags(place, tmp_path / "run", **sizes)) == 0
    scores = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert scores["chrf"] > 90 > 60 > scores["copy_chrf"]
    capsys.readouterr()
    assert predict.main(["two five", f"--init={tmp_path / 'run'}", "--beams=2"]) == 0
    assert json.loads(capsys.readouterr().out)["translation"] == "zwei funf"
    assert convert.main([f"{tmp_path}/run", f"hf:{tmp_path}/out"]) == 0
    capsys.readouterr()
    assert predict.main(["two five", f"--init=hf:{tmp_path / 'out'}", "--beams=2"]) == 0
    assert json.loads(capsys.readouterr().out)["translation"] == "zwei funf"
