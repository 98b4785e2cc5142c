import itertools
import json
import os
import subprocess
import sys

import pytest

from bert_jax.sentencepiece_tokenizer import SentencePiece
from bert_jax.tokenizer import SPECIAL_PIECES, WordPiece
from bert_jax.tokenizer_files import load_tokenizer
from bert_jax.tokenizer_training import train_sentencepiece, train_wordpiece
from core_jax.errors import UserError

WORDS = ["lamp", "Lantern", "naïve", "river", "rivers", "under", "understand", "standing", "ünder", "7th", "x²", "北京"]
TEXTS = [" ".join(WORDS[(i * k) % len(WORDS)] for k in range(9)) + f", number {i}: (ok)." for i in range(300)]
TRAINERS = {
    "wordpiece": lambda: train_wordpiece(iter(TEXTS), 120),
    "unigram": lambda: train_sentencepiece(iter(TEXTS), 120, "unigram"),
    "bpe": lambda: train_sentencepiece(iter(TEXTS), 120, "bpe"),
}


@pytest.fixture(scope="module", params=TRAINERS)
def tokenizer(request):
    return TRAINERS[request.param]()


def test_trained_ids(tokenizer):
    ids = [tokenizer.pad_id, tokenizer.unknown_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id]
    assert ids == [0, 1, 2, 3, 4]
    assert [tokenizer.piece(index) for index in ids] == list(SPECIAL_PIECES)
    assert tokenizer.vocab_size <= 120
    assert tokenizer.ordinary_ids.tolist() == list(range(5, tokenizer.vocab_size))
    assert len(tokenizer.continues_word) == tokenizer.vocab_size


def test_round_trip(tokenizer, tmp_path):
    text = "under the lamp , standing rivers understand"
    [ids] = tokenizer.encode([text])
    assert max(ids) < tokenizer.vocab_size
    words = tokenizer.decode(ids).replace(" ,", ",")
    assert words in (text.replace(" ,", ","), text)
    tokenizer.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert type(again) is type(tokenizer)
    assert again.encode(TEXTS) == tokenizer.encode(TEXTS)
    again.save(tmp_path / "again")
    names = sorted(file.name for file in (tmp_path / "saved").iterdir())
    assert all((tmp_path / "saved" / n).read_bytes() == (tmp_path / "again" / n).read_bytes() for n in names)


def test_places_are_characters(tokenizer):
    text = "ünder the naïve 北京 lamp, x² river"
    [(ids, places)], [expected] = tokenizer.encode_with_places([text]), tokenizer.encode([text])
    assert ids == expected
    assert "".join(text[start:end] for start, end in places).replace(" ", "") == text.replace(" ", "")
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(places))


def test_special_pieces_are_text_unless_allowed(tokenizer):
    text = "the lamp [MASK] [SEP][PAD] river [CLS] [UNK]"
    [as_text], [as_pieces] = tokenizer.encode([text]), tokenizer.encode([text], allow_special=True)
    assert not {0, 2, 3, 4} & set(as_text)
    assert [index for index in as_pieces if index < 5] == [4, 3, 0, 2, 1]
    for name in SPECIAL_PIECES:
        assert name in tokenizer.decode(as_pieces)


def test_continued_words(tokenizer):
    ids = tokenizer.encode(["understanding rivers"])[0]
    assert not tokenizer.continues_word[ids[0]]
    assert tokenizer.continues_word[ids].sum() == len(ids) - 2  # two words
    assert not tokenizer.continues_word[:5].any()


def test_odd_texts(tokenizer):
    odd = ["", " ", "x" * 50_000, "🙂", "e\u0301", "\u0000", "a\r\nb", "\u200b"]
    assert len(tokenizer.encode(odd)) == len(odd)
    assert tokenizer.encode(["", " \t"]) == [[], []]
    assert tokenizer.encode([]) == []


def test_training_is_the_same_in_every_process(tmp_path):
    script = (
        "import sys, pathlib; from tests.test_tokenizer import TRAINERS\n"
        "for name, train in TRAINERS.items(): train().save(pathlib.Path(sys.argv[1]) / name)"
    )
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", script, str(tmp_path / seed)], env=environment, check=True)
    files = [file.relative_to(tmp_path / "1") for file in (tmp_path / "1").rglob("*") if file.is_file()]
    assert len(files) == 5
    for file in files:
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes(), file


def test_trained_wordpiece_is_never_larger_than_asked():
    for size in (10, 30, 60):
        assert train_wordpiece(iter(TEXTS), size).vocab_size <= size


def test_trained_case():
    cased = train_wordpiece(iter(TEXTS), 120, lowercase=False)
    assert cased.decode(cased.encode(["Lantern naïve"])[0]) == "Lantern naïve"
    uncased = train_wordpiece(iter(TEXTS), 120)
    assert uncased.encode(["LANTERN NAÏVE"]) == uncased.encode(["lantern naive"])


def test_wordpiece_against_a_vocabulary_by_hand(tmp_path):
    pieces = [*SPECIAL_PIECES, "un", "##aff", "##able", "affe", "!", "北", "[unused1]", "run"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    tokenizer = load_tokenizer(tmp_path / "vocab.txt")
    # Lower case, accents stripped, punctuation and Chinese apart, longest match first, one unknown piece per word.
    text = "UNAFFABLE!ünable 北北 affes run\u00a0run\u200d " + "a" * 101
    expected = ["un", "##aff", "##able", "!", "un", "##able", "北", "北", "[UNK]", "run", "run", "[UNK]"]
    [ids] = tokenizer.encode([text])
    assert [tokenizer.piece(index) for index in ids] == expected
    assert tokenizer.ordinary_ids.tolist() == [5, 6, 7, 8, 9, 10, 12]
    assert [tokenizer.piece(i) for i in range(len(pieces)) if tokenizer.continues_word[i]] == ["##aff", "##able"]


@pytest.mark.parametrize(("config", "expected"), [(None, "Run"), ({"do_lower_case": True}, "[UNK]")])
def test_cased_vocabulary(tmp_path, config, expected):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_PIECES, "Run"]))
    if config:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    assert [tokenizer.piece(index) for index in tokenizer.encode(["Run"])[0]] == [expected]


@pytest.mark.parametrize(("strip_accents", "split_chinese"), [(None, True), (False, True), (True, False)])
@pytest.mark.parametrize("lowercase", [False, True])
def test_other_programs_are_told_all_settings(tmp_path, lowercase, strip_accents, split_chinese):
    settings = {"lowercase": lowercase, "strip_accents": strip_accents, "split_chinese": split_chinese}
    WordPiece.from_vocabulary([*SPECIAL_PIECES, "a"], **settings).save(tmp_path)
    found = json.loads((tmp_path / "tokenizer_config.json").read_text())
    names = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
    assert [found[name] for name in names] == [lowercase, strip_accents, split_chinese]
    (tmp_path / "tokenizer.json").unlink()
    again = load_tokenizer(tmp_path)
    again.save(tmp_path / "again")
    assert json.loads((tmp_path / "again/tokenizer_config.json").read_text()) == found


def test_a_normalizer_of_another_kind_is_to_be_taken_as_it_is(tmp_path):
    WordPiece.from_vocabulary([*SPECIAL_PIECES, "a"], lowercase=True).save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(content | {"normalizer": {"type": "Lowercase"}}))
    load_tokenizer(tmp_path).save(tmp_path / "again")
    found = json.loads((tmp_path / "again/tokenizer_config.json").read_text())
    assert found["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (found["pad_token"], found["mask_token"]) == ("[PAD]", "[MASK]")


def test_settings_are_believed_before_tokenizer_json(tmp_path):
    WordPiece.from_vocabulary([*SPECIAL_PIECES, "Run", "run"], lowercase=True).save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    tokenizer = load_tokenizer(tmp_path)
    assert [tokenizer.piece(index) for index in tokenizer.encode(["Run"])[0]] == ["Run"]
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(UserError, match=r"tokenizer_config\.json beside it holds no fields"):
        load_tokenizer(tmp_path)


def test_ids_without_a_piece_get_unused_ones():
    tokenizer = WordPiece.from_vocabulary([*SPECIAL_PIECES, "a", "[unused7]"], lowercase=True).filled_up(9)
    assert [tokenizer.piece(index) for index in range(5, 9)] == ["a", "[unused7]", "[unused16]", "[unused8]"]
    assert tokenizer.ordinary_ids.tolist() == [5]
    assert tokenizer.encode(["a [unused8]"]) == [[5, 1, 1, 1]]


def test_missing_special_pieces(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\na\n")
    with pytest.raises(UserError, match=r"vocab.txt: .*lacks \[SEP\], \[MASK\]"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b"{}", "type none; expected WordPiece"),
        ("tokenizer.json", b'{"model": {"type": "BPE"}}', "type BPE; expected WordPiece"),
        ("tokenizer.json", b'{"model": {"type": "WordPiece"}}', "not a tokenizer file"),
        ("tokenizer.json", b"{", "not a tokenizer file"),
        ("x.model", b"rubbish", "not a tokenizer file"),
        ("vocab.txt", b"\xff\xfe", "not a tokenizer file"),
        ("readme.md", b"", "no tokenizer in the folder"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)


def test_no_file(tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer at .*expected a folder"):
        load_tokenizer(tmp_path / "nothing")


def test_training_on_nothing_or_too_small():
    for train in (train_wordpiece, train_sentencepiece):
        with pytest.raises(UserError, match="no words"):
            train(iter([" ", "\n"]), 100)
    with pytest.raises(UserError, match="at least 10"):
        train_wordpiece(iter(TEXTS), 5)
    with pytest.raises(UserError, match=r"--vocab_size=10 has no room for the \d+ characters"):
        train_sentencepiece(iter(TEXTS), 10)


def test_types():
    assert isinstance(TRAINERS["wordpiece"](), WordPiece)
    assert isinstance(TRAINERS["bpe"](), SentencePiece)
