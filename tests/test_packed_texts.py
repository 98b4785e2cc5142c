"""Documents in rows: each prediction once, none across a border; and the 5-gram baseline beside them."""

import collections
import pickle

import numpy as np
import pytest

from bert_jax.corpus import open_corpus
from bert_jax.corpus_building import build_corpus
from bert_jax.ngram_baseline import KneserNey
from bert_jax.packed_texts import PackedTexts, document_lengths, framed
from bert_jax.tokenizer_training import train_byte_level_bpe
from core_jax.errors import UserError

LENGTH = 16


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Documents, some longer than a row, and their corpus and tokenizer."""
    random = np.random.default_rng(0)
    words = [f"w{number}" for number in range(12)]
    texts = [" ".join(random.choice(words, random.integers(1, 20))) + "\n x.  Y" for _ in range(60)]
    tokenizer = train_byte_level_bpe(texts, 280)
    folder = tmp_path_factory.mktemp("corpus") / "corpus"
    build_corpus([texts], tokenizer, folder, held_out=0.2, language="")
    return texts, tokenizer, folder


def test_documents_stay_whole_to_the_byte(made):
    texts, tokenizer, folder = made
    found = [
        tokenizer.decode(corpus.tokens(document).tolist())
        for corpus in (open_corpus(folder, "train"), open_corpus(folder, "held_out"))
        for document in range(len(corpus))
    ]
    assert collections.Counter(found) == collections.Counter(set(texts))


def predictions(row):
    """Every prediction of a row: (tokens of its own segment up to it, what follows)."""
    for place in np.flatnonzero(row["weights"]["next"]):
        seen = (row["segments"] == row["segments"][place]) & (np.arange(LENGTH) <= place)
        assert row["positions"][place] == seen.sum() - 1
        yield (*row["tokens"][seen].tolist(), row["labels"][place].item())


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_epoch_predicts_every_token_of_every_document_once(made, epoch):
    _, tokenizer, folder = made
    corpus = open_corpus(folder, "train")
    rows = pickle.loads(pickle.dumps(PackedTexts(corpus, tokenizer, sequence_length=LENGTH, seed=3)))
    found = collections.Counter(
        prediction for index in range(len(rows)) for prediction in predictions(rows.example(epoch, index))
    )
    expected = collections.Counter()
    for document in range(len(corpus)):
        whole = framed(corpus, document, tokenizer.end_id).tolist()
        for place in range(len(whole) - 1):
            expected[(*whole[place - place % LENGTH : place + 1], whole[place + 1])] += 1
    assert found == expected
    assert max(document_lengths(corpus)) > LENGTH
    assert sum(rows.lengths) == sum(expected.values())


def test_epochs_and_seeds_put_other_documents_together(made):
    _, tokenizer, folder = made
    rows = [PackedTexts(open_corpus(folder, "train"), tokenizer, sequence_length=LENGTH, seed=seed) for seed in (0, 1)]
    drawn = [rows[seed].example(epoch, 0)["tokens"].tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert drawn[0] == drawn[3]
    assert len({tuple(row) for row in drawn}) == 3


def test_another_vocabulary_is_refused(made):
    _, _, folder = made
    with pytest.raises(UserError, match="vocabulary"):
        PackedTexts(open_corpus(folder, "train"), train_byte_level_bpe(["a b"], 300), sequence_length=LENGTH, seed=0)


def by_hand(windows, vocab_size, history, token):
    """Interpolated Kneser-Ney as the definition says it, by sets of n-grams."""
    grams = collections.Counter(windows)
    counts = [grams]
    for _ in range(4):
        counts.append(collections.Counter(gram[1:] for gram in counts[-1]))
    chance = 1 / vocab_size
    for order, level in zip(range(1, 6), reversed(counts), strict=True):
        context = history[len(history) - order + 1 :]
        following = {gram[-1]: count for gram, count in level.items() if gram[:-1] == context}
        if not following:
            return chance
        values = list(level.values())
        discount = values.count(1) / (values.count(1) + 2 * values.count(2))
        own = max(following.get(token, 0) - discount, 0) if token in following else 0
        chance = (own + discount * len(following) * chance) / sum(following.values())
    return chance


def test_the_baseline_is_interpolated_kneser_ney(made):
    _, tokenizer, folder = made
    train, held_out = open_corpus(folder, "train"), open_corpus(folder, "held_out")
    end, size = tokenizer.end_id, tokenizer.vocab_size
    model = KneserNey(train, end, size)
    windows = []
    for document in range(len(train)):
        padded = (end, end, end, *framed(train, document, end).tolist())
        windows += [padded[place : place + 5] for place in range(len(padded) - 4)]
    found = np.exp(model.log_probabilities(held_out, 0))
    padded = (end, end, end, *framed(held_out, 0, end).tolist())
    for place, chance in enumerate(found):
        expected = by_hand(windows, size, padded[place : place + 4], padded[place + 4])
        assert chance == pytest.approx(expected, rel=1e-9)
    history = padded[3:7]
    assert sum(by_hand(windows, size, history, token) for token in range(size)) == pytest.approx(1)
    assert model.loss(held_out) < np.log(size)
