import concurrent.futures
import hashlib
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest

from bert_jax.corpus import open_corpus
from bert_jax.corpus_building import build_corpus
from bert_jax.pretraining_data import PretrainingExamples
from core_jax.errors import UserError
from tests.numbered_text import numbered_corpus, numbered_documents, numbered_tokenizer

T, P = 64, 10


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return numbered_corpus(tmp_path_factory.mktemp("examples"), numbered_documents(100, seed=3))


@pytest.fixture(scope="module")
def examples(source):
    return PretrainingExamples(*source, sequence_length=T, seed=0)


def fingerprint(example):
    leaves = jax.tree.leaves(example)
    return hashlib.sha256(b"".join(leaf.dtype.str.encode() + leaf.tobytes() for leaf in leaves)).hexdigest()


@pytest.mark.parametrize("whole_words", [False, True])
def test_fields(source, whole_words):
    examples = PretrainingExamples(*source, sequence_length=T, seed=0, whole_word_masking=whole_words)
    for index in range(len(examples)):
        example = examples.example(0, index)
        shapes = jax.tree.map(lambda leaf: (leaf.dtype.name, leaf.shape), example)
        assert shapes == {
            **dict.fromkeys(("tokens", "segments", "types"), ("int32", (T,))),
            **dict.fromkeys(("mlm_positions", "mlm_labels"), ("int32", (P,))),
            "nsp_labels": ("int32", ()),
            "weights": {"mlm": ("float32", (P,)), "nsp": ("float32", ())},
        }
        check_layout(example)


def check_layout(example):
    end = example["segments"].sum()
    tokens = example["tokens"].copy()
    used = example["weights"]["mlm"] == 1
    positions, labels = example["mlm_positions"][used], example["mlm_labels"][used]
    assert not example["mlm_positions"][~used].any()
    assert not example["mlm_labels"][~used].any()
    assert (np.diff(positions) > 0).all()
    assert len(positions) == min(P, max(1, round((end - 3) * 0.15)))
    assert set(example["tokens"][positions]) & {0, 1, 2, 3} == set()
    assert labels.min() > 4
    tokens[positions] = labels
    assert tokens[0] == 2
    assert not (tokens == 4).any()
    [middle, last] = np.flatnonzero(tokens == 3)
    assert 1 < middle < last - 1
    assert last == end - 1
    assert not tokens[end:].any()
    assert (example["segments"] == (np.arange(T) < end)).all()
    assert (example["types"] == ((np.arange(T) > middle) & (np.arange(T) < end))).all()
    assert example["nsp_labels"] in (0, 1)
    assert example["weights"]["nsp"] == 1


def test_same_place_gives_the_same_example(source, examples):
    places = [(epoch, index) for epoch in (0, 1, 5) for index in range(40)]
    expected = [fingerprint(examples.example(*place)) for place in places]
    assert len(set(expected)) == len(expected)
    other = PretrainingExamples(*source, sequence_length=T, seed=0)
    assert [fingerprint(other.example(*place)) for place in reversed(places)] == expected[::-1]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda place: fingerprint(examples.example(*place)), places)) == expected


def test_another_process_draws_the_same(examples, tmp_path):
    (tmp_path / "examples.pickle").write_bytes(pickle.dumps(examples))
    script = (
        "import pickle, sys; from tests.test_pretraining_data import fingerprint\n"
        "examples = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print(*(fingerprint(examples.example(2, index)) for index in range(20)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "examples.pickle")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [fingerprint(examples.example(2, index)) for index in range(20)]


def test_seeds_differ(source, examples):
    other = PretrainingExamples(*source, sequence_length=T, seed=1)
    assert all(fingerprint(examples.example(0, i)) != fingerprint(other.example(0, i)) for i in range(20))
    # The second epoch of one seed is not the first of another, nor its neighbour's example.
    assert fingerprint(examples.example(1, 0)) != fingerprint(other.example(0, 0))


def test_epochs_pair_and_mask_anew(examples):
    draws = [examples.example(epoch, 3) for epoch in range(100)]
    assert 25 < sum(int(draw["nsp_labels"]) for draw in draws) < 75
    assert len({draw["mlm_positions"].tobytes() for draw in draws}) > 90


def test_shares(examples):
    masked, random, predicted, possible = 0, 0, 0, 0
    for epoch in range(10):
        for index in range(len(examples)):
            example = examples.example(epoch, index)
            used = example["weights"]["mlm"] == 1
            seen = example["tokens"][example["mlm_positions"][used]]
            masked += (seen == 4).sum()
            random += ((seen != 4) & (seen != example["mlm_labels"][used])).sum()
            predicted += used.sum()
            possible += example["segments"].sum() - 3
    assert abs(masked / predicted - 0.8) < 4 * np.sqrt(0.16 / predicted)
    assert abs(random / predicted - 0.1) < 4 * np.sqrt(0.09 / predicted)
    assert abs(predicted / possible - 0.15) < 0.005  # rounding to whole tokens


def test_mistakes(tmp_path, source):
    tokenizer = numbered_tokenizer(50)

    def corpus(name, *documents):
        build_corpus([documents], tokenizer, tmp_path / name, held_out=0.0)
        return open_corpus(tmp_path / name, "train")

    with pytest.raises(UserError, match=r"has 1 documents.*blank lines"):
        PretrainingExamples(corpus("one", "w1 w2\nw3"), tokenizer, sequence_length=T, seed=0)
    with pytest.raises(UserError, match="none of the 2 documents has two sentences"):
        PretrainingExamples(corpus("short", "w1", "w2"), tokenizer, sequence_length=T, seed=0)
    with pytest.raises(UserError, match="the tokenizer has 55"):
        PretrainingExamples(source[0], tokenizer, sequence_length=T, seed=0)
    tiny = PretrainingExamples(corpus("tiny", "w1\nw2", "w3"), tokenizer, sequence_length=8, seed=0)
    assert len(tiny) == 1
    assert {int(tiny.example(epoch, 0)["tokens"].size) for epoch in range(20)} == {8}
