import concurrent.futures
import pickle
from itertools import chain

import numpy as np
import pytest

from bert_jax.corpus import corpus_exists, open_corpus
from bert_jax.corpus_building import Progress, build_corpus
from bert_jax.corpus_shards import is_held_out
from core_jax.errors import UserError
from tests.numbered_text import numbered_corpus, numbered_documents, numbered_tokenizer

TOKENIZER = numbered_tokenizer(2000)


def texts(count):
    return [f"w{i} w{i + 1} w{i}. w{i + 2}\nw{i + 3}!" for i in range(count)]


def stored_documents(folder, split):
    corpus = open_corpus(folder, split)
    return [tuple(np.concatenate(corpus[i]).tolist()) for i in range(len(corpus))]


def test_what_is_written_is_read(tmp_path):
    documents = numbered_documents(50, seed=0)
    corpus, tokenizer = numbered_corpus(tmp_path, documents)
    assert len(corpus) == 50
    for index, document in enumerate(documents):
        assert [sentence.tolist() for sentence in corpus[index]] == document
        assert corpus.tokens(index).tolist() == list(chain.from_iterable(document))
    flat = list(chain.from_iterable(documents))
    assert corpus.sentence_lengths.tolist() == list(map(len, flat))
    assert corpus.document_offsets.tolist() == np.cumsum([0, *map(len, documents)]).tolist()
    expected = np.bincount(list(chain.from_iterable(flat)), minlength=tokenizer.vocab_size)
    assert corpus.unigram_counts.tolist() == expected.tolist()
    assert (corpus.summary.train.sentences, corpus.summary.train.tokens) == (len(flat), expected.sum())
    assert corpus.summary.held_out.documents == 0
    assert len(open_corpus(tmp_path / "corpus", "held_out")) == 0


def test_splits_share_nothing_and_follow_from_the_text(tmp_path):
    documents = texts(1500)
    summary = build_corpus([documents], TOKENIZER, tmp_path / "a", held_out=0.2)
    assert abs(summary.held_out.documents - 300) < 5 * np.sqrt(1500 * 0.2 * 0.8)
    assert summary.train.documents + summary.held_out.documents == 1500
    assert summary.held_out.documents == sum(is_held_out(text, 0.2) for text in documents)
    trained = [text for text in documents if not is_held_out(text, 0.2)]
    assert build_corpus([trained], TOKENIZER, tmp_path / "t", held_out=0.2).held_out.documents == 0
    again = [" " + text.replace(" ", "  ") for text in reversed(documents)] + documents[:100]
    other = build_corpus([again], TOKENIZER, tmp_path / "b", held_out=0.2)
    assert other.duplicates == 100
    for split in ("train", "held_out"):
        assert sorted(stored_documents(tmp_path / "a", split)) == sorted(stored_documents(tmp_path / "b", split))
    assert not set(stored_documents(tmp_path / "a", "train")) & set(stored_documents(tmp_path / "a", "held_out"))


def test_sentences_end_at_full_stops_and_line_ends(tmp_path):
    documents = ["W1 w2. W3 w4! W5\r\nw6 w7\nDr. w8", "w1" + " w2" * 50_000, "w9", " \n\t", "", "🙂"]
    summary = build_corpus([documents], numbered_tokenizer(10), tmp_path / "c", held_out=0.0)
    corpus = open_corpus(tmp_path / "c", "train")
    unknown = 1  # of every full stop, "Dr" and so on
    assert [sentence.tolist() for sentence in corpus[0]] == [
        [6, 7, unknown],
        [8, 9, unknown],
        [10],
        [11, 12],
        [unknown, unknown, 13],
    ]
    assert [len(corpus.tokens(i)) for i in range(1, len(corpus))] == [50_001, 1, 1]
    assert (summary.empty_documents, summary.duplicates) == (1, 1)  # the texts " \n\t" and "" are equal but for spaces
    assert summary.train.unknown_pieces == 5


def test_special_pieces_in_the_text_are_text(tmp_path):
    build_corpus([["w1 [MASK] [SEP] w2 [CLS][PAD]"]], TOKENIZER, tmp_path / "c", held_out=0.0)
    tokens = open_corpus(tmp_path / "c", "train").tokens(0)
    assert not set(tokens.tolist()) & {0, 2, 3, 4}


def test_large_vocabularies(tmp_path):
    tokenizer = numbered_tokenizer(70_000)
    build_corpus([["w69999 w1"]], tokenizer, tmp_path / "c", held_out=0.0)
    assert open_corpus(tmp_path / "c", "train").tokens(0).tolist() == [70_004, 6]


def test_reading_from_threads_and_after_pickling(tmp_path):
    documents = numbered_documents(300, seed=1)
    corpus, _ = numbered_corpus(tmp_path, documents)
    copy = pickle.loads(pickle.dumps(corpus))
    order = np.random.default_rng(0).integers(300, size=3000).tolist()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for index, tokens in zip(order, pool.map(copy.tokens, order), strict=True):
            assert tokens.tolist() == list(chain.from_iterable(documents[index]))


class Broken:
    """Text whose reading fails once."""

    fails = True

    def __iter__(self):
        yield from texts(20)
        if Broken.fails:
            raise UserError("line 21")


def test_progress_and_failure_leave_nothing_half_done(tmp_path):
    reported, slices = [], [texts(50), texts(90), Broken(), texts(10)]
    with pytest.raises(UserError, match="line 21"):
        build_corpus(slices, TOKENIZER, tmp_path / "c", held_out=0.1)
    assert not corpus_exists(tmp_path / "c")
    assert sorted(path.name for path in (tmp_path / "c" / "shards").iterdir()) == ["00000000", "00000001"]
    Broken.fails = False
    summary = build_corpus(slices, TOKENIZER, tmp_path / "c", held_out=0.1, report=reported.append)
    assert corpus_exists(tmp_path / "c")
    assert summary.duplicates == 80
    assert [state for state in reported if isinstance(state, Progress)] == [
        Progress(2, 4, 0),
        Progress(3, 4, 20 * 7),
        Progress(4, 4, 30 * 7),
    ]


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match="no document with any words"):
        build_corpus([["", " "]], TOKENIZER, tmp_path / "c", held_out=0.1)
    with pytest.raises(UserError, match="--held_out=1"):
        build_corpus([["w1"]], TOKENIZER, tmp_path / "c", held_out=1.0)
    with pytest.raises(UserError, match=f"rm -r {tmp_path}/nothing"):
        open_corpus(tmp_path / "nothing", "train")


@pytest.mark.parametrize(
    "name",
    [
        "corpus.json",
        "shards/00000000/documents.array_record",
        "train.sentence_lengths.npy",
        "train.document_offsets.npy",
        "train.records.npy",
        "train.shard_starts.npy",
    ],
)
def test_truncated_files(tmp_path, name):
    build_corpus([texts(100)], TOKENIZER, tmp_path / "c", held_out=0.1)
    content = (tmp_path / "c" / name).read_bytes()
    (tmp_path / "c" / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=f"damaged.*Delete that folder.* rm -r {tmp_path}/c"):
        open_corpus(tmp_path / "c", "train")


def test_overwritten_bytes(tmp_path):
    corpus, _ = numbered_corpus(tmp_path, numbered_documents(200, seed=2))
    file = tmp_path / "corpus" / "shards" / "00000000" / "documents.array_record"
    content = bytearray(file.read_bytes())
    content[20_000:22_000] = bytes(2000)
    file.write_bytes(content)
    damaged = open_corpus(tmp_path / "corpus", "train")
    with pytest.raises(UserError, match="Delete that folder"):
        list(map(damaged.tokens, range(len(corpus))))
