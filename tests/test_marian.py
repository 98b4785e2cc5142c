"""Marian folders of `transformers`: vocabulary, conversion both ways, a start of training, the same translations."""

import json
import pickle

import jax
import numpy as np
import pytest

from bert_jax.marian_vocabulary import MarianVocabulary, as_marian
from bert_jax.tokenizer_files import load_tokenizer
from bert_jax.tokenizer_training import train_sentencepiece
from core_jax.errors import UserError
from experiments import convert, finetune, predict, translator_conversion
from tests.test_finetune_translation import OTHERS, WORDS, flags, place  # noqa: F401
from tests.translator_folders import assert_there_and_back

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
TEXTS = ["two five one", "one", "six four three two", "one unheard word"]


def two_languages():
    """A vocabulary as of the published models: models of both languages, numbers in the table that are not theirs."""
    sides = [train_sentencepiece([f"{a} {b}" for a in words for b in words], 40) for words in (WORDS, OTHERS)]
    pieces = {side.piece(index) for side in sides for index in range(5, side.vocab_size)}
    table = ["</s>", "<unk>", *sorted(pieces), ">>de<<", "<pad>"]
    content = json.dumps({piece: index for index, piece in enumerate(table)}).encode()
    source, target = (side.model_proto() for side in sides)
    return MarianVocabulary({"source.spm": source, "target.spm": target, "vocab.json": content})


def peer_folder(folder):
    """A small random Marian, as `transformers` writes it; what it starts from and pads with is one piece."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    tokenizer = two_languages()
    torch.manual_seed(0)
    model = transformers.MarianMTModel(
        transformers.MarianConfig(
            vocab_size=tokenizer.vocab_size,
            decoder_vocab_size=tokenizer.vocab_size,
            d_model=24,
            encoder_layers=2,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=40,
            decoder_ffn_dim=40,
            max_position_embeddings=64,
            pad_token_id=tokenizer.pad_id,
            eos_token_id=tokenizer.end_id,
            decoder_start_token_id=tokenizer.pad_id,
            forced_eos_token_id=None,
            init_std=0.5,
            scale_embedding=True,
            activation_function="swish",
        )
    ).eval()
    with torch.no_grad():
        model.final_logits_bias += 0.3 * torch.randn(model.final_logits_bias.shape)
    model.save_pretrained(folder)
    tokenizer.save(folder)
    return transformers, torch, model


def test_pieces_of_each_language_have_the_numbers_of_one_table(tmp_path):
    ours = two_languages()
    ours.save(tmp_path)
    for tokenizer in (ours, load_tokenizer(tmp_path), pickle.loads(pickle.dumps(ours))):
        ids = tokenizer.encode([">>de<<two five"])[0]
        assert [tokenizer.piece(index) for index in ids[:2]] == [">>de<<", "▁two"]
        assert tokenizer.decode([*tokenizer.targets.encode(["zwei drei"])[0], tokenizer.end_id]) == "zwei drei"
        assert tokenizer.unknown_id in tokenizer.encode(["♥"])[0]
    (tmp_path / "vocab.json").write_text('{"</s>": 0, "<unk>": 2}')
    with pytest.raises(UserError, match="expected one of every piece"):
        load_tokenizer(tmp_path)


def test_the_peer_cuts_texts_into_the_same_pieces(tmp_path):
    transformers = pytest.importorskip("transformers")
    one = train_sentencepiece([*WORDS, *OTHERS], 48)
    for name, tokenizer in (("two", two_languages()), ("one", as_marian(one))):
        tokenizer.save(tmp_path / name)
        peer = transformers.MarianTokenizer.from_pretrained(tmp_path / name)
        for texts, side in ((TEXTS, tokenizer), (["drei eins", *TEXTS], tokenizer.targets)):
            theirs = peer(text_target=texts) if side is not tokenizer else peer(texts)
            ids = [[*row, tokenizer.end_id] for row in side.encode(texts)]
            assert ids == theirs["input_ids"]
        ids = tokenizer.targets.encode(["drei eins"])[0]
        assert peer.decode(ids, skip_special_tokens=True, use_source_tokenizer=False) == tokenizer.decode(ids)
    assert as_marian(one).encode(TEXTS) == one.encode(TEXTS)


@pytest.mark.slow
def test_there_and_back_is_the_identity_and_the_peer_agrees(tmp_path, capsys):
    peer_folder(tmp_path / "peer")
    assert_there_and_back(tmp_path, TEXTS, ("source.spm", "target.spm", "vocab.json"), capsys)
    with pytest.raises(UserError, match="expected hf:DIR for one of them"):
        convert.main([f"{tmp_path}/run", f"{tmp_path}/lastx"])


@pytest.mark.slow
def test_predict_translates_as_the_peer(tmp_path, capsys):
    transformers, torch, model = peer_folder(tmp_path / "peer")
    assert predict.main([*TEXTS, f"--init=hf:{tmp_path}/peer", "--beams=3", "--length_penalty=0.8"]) == 0
    found = [json.loads(line)["translation"] for line in capsys.readouterr().out.splitlines()]
    peer = transformers.MarianTokenizer.from_pretrained(tmp_path / "peer")
    inputs = peer(TEXTS, return_tensors="pt", padding=True)
    with torch.no_grad():
        search = {"num_beams": 3, "length_penalty": 0.8, "bad_words_ids": [[model.config.pad_token_id]]}
        theirs = model.generate(**inputs, **search, max_new_tokens=63)
    assert found == peer.batch_decode(theirs, skip_special_tokens=True, use_source_tokenizer=False)
    assert len(set(found)) > 1


def test_what_does_not_fit_is_refused(tmp_path):
    peer_folder(tmp_path / "peer")
    fields = json.loads((tmp_path / "peer" / "config.json").read_text())
    (tmp_path / "peer" / "config.json").write_text(json.dumps(fields | {"decoder_start_token_id": 3}))
    with pytest.raises(UserError, match="is 3, but that of its vocabulary is"):
        convert.main([f"hf:{tmp_path}/peer", f"{tmp_path}/run"])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_training_goes_on_from_a_marian(place, tmp_path):  # noqa: F811
    peer_folder(tmp_path / "peer")
    given = {"init": f"hf:{tmp_path}/peer", "learning_rate": 0, "ema_decay": 0, "dtype": "float32"}
    assert finetune.main(flags(place, tmp_path / "run", **given, epochs=1)) == 0
    start, run = (translator_conversion.read(x) for x in (f"hf:{tmp_path}/peer", f"{tmp_path}/run"))
    jax.tree.map(np.testing.assert_array_equal, run.params, start.params)
    assert run.tokenizer.encode(TEXTS) == start.tokenizer.encode(TEXTS)
