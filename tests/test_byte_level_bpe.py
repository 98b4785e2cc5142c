"""Byte-level BPE: every text comes back to the byte, and GPT-2's own files are read as `transformers` reads them."""

import json
import pickle

import pytest

from bert_jax.tokenizer import END_OF_TEXT, ByteLevelBpe
from bert_jax.tokenizer_files import load_tokenizer
from bert_jax.tokenizer_training import train_byte_level_bpe
from core_jax.errors import UserError

TEXTS = ["The cat sat.\nThe  hat\twas wörn, 日本!", f"a {END_OF_TEXT} in a text", " 'tis\u00a0the cat's \u0000"] * 4


@pytest.fixture(scope="module")
def tokenizer() -> ByteLevelBpe:
    return train_byte_level_bpe(TEXTS, 290)


def test_any_text_comes_back_to_the_byte(tokenizer):
    for text in (*TEXTS, "never seen: Ελληνικά \U0001f600\r\n"):
        [ids] = tokenizer.encode([text])
        assert tokenizer.decode(ids) == text
        assert tokenizer.end_id not in ids
    [ids] = tokenizer.encode([f"a{END_OF_TEXT}b"], allow_special=True)
    assert ids.count(tokenizer.end_id) == 1


def test_training_repeats_itself_and_keeps_to_its_size(tokenizer):
    assert train_byte_level_bpe(TEXTS, 290)._serialized() == tokenizer._serialized()
    assert (tokenizer.vocab_size, tokenizer.end_id, tokenizer.piece(0)) == (290, 0, END_OF_TEXT)
    assert len(tokenizer.encode(["The cat"])[0]) < len("The cat")
    with pytest.raises(UserError, match="--vocab_size=257"):
        train_byte_level_bpe(TEXTS, 257)
    with pytest.raises(UserError, match="no words"):
        train_byte_level_bpe([" \n"], 290)


def test_all_ways_of_keeping_it(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "whole")
    (tmp_path / "parts").mkdir()
    tokenizer._tokenizer.model.save(str(tmp_path / "parts"))  # vocab.json and merges.txt, as GPT-2 has them
    pickled = pickle.loads(pickle.dumps(tokenizer))
    for other in (load_tokenizer(tmp_path / "whole"), load_tokenizer(tmp_path / "parts"), pickled):
        assert isinstance(other, ByteLevelBpe)
        assert other.encode(TEXTS) == tokenizer.encode(TEXTS)
        assert other.end_id == tokenizer.end_id


def test_the_peer_reads_it_alike(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    peer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in (TEXTS[0], TEXTS[2]):
        assert peer.encode(text) == tokenizer.encode([text])[0]
    assert peer.eos_token_id == tokenizer.end_id


def test_damaged_and_foreign_files(tokenizer, tmp_path):
    tokenizer._tokenizer.model.save(str(tmp_path))
    (tmp_path / "merges.txt").rename(tmp_path / "elsewhere.txt")
    with pytest.raises(UserError, match=r"no merges\.txt"):
        load_tokenizer(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b c\n")
    with pytest.raises(UserError, match="no pair"):
        load_tokenizer(tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    del vocabulary[END_OF_TEXT]
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "elsewhere.txt").rename(tmp_path / "merges.txt")
    with pytest.raises(UserError, match=r"lacks <\|endoftext\|>"):
        load_tokenizer(tmp_path)
