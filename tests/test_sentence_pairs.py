import numpy as np
import pytest

from bert_jax.sentence_pairs import NEXT, RANDOM, chunk_documents, draw_pair
from tests.numbered_text import numbered_corpus, numbered_documents

MAXIMUM = 61
DOCUMENTS = numbered_documents(120, seed=0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return numbered_corpus(tmp_path_factory.mktemp("pairs"), DOCUMENTS)[0]


@pytest.fixture(scope="module")
def chunks(corpus):
    return chunk_documents(corpus.sentence_lengths, corpus.document_offsets, MAXIMUM)


def draw(corpus, chunks, count, **options):
    rng = np.random.default_rng(1)
    for number in range(count):
        chunk = chunks[number % len(chunks)]
        yield chunk, draw_pair(corpus, chunk, rng, maximum=MAXIMUM, **options)


def document_of(token):
    return next(index for index, document in enumerate(DOCUMENTS) if token <= document[-1][-1])


def test_every_sentence_is_in_one_chunk(chunks):
    covered = [(document, sentence) for document, first, end in chunks.tolist() for sentence in range(first, end)]
    expected = [(i, j) for i, document in enumerate(DOCUMENTS) if len(document) > 1 for j in range(len(document))]
    assert covered == expected


def test_chunks_are_as_short_as_can_be(chunks):
    for document, first, end in chunks.tolist():
        lengths = [len(sentence) for sentence in DOCUMENTS[document][first:end]]
        is_last = end == len(DOCUMENTS[document])
        assert len(lengths) >= 2
        assert sum(lengths) >= MAXIMUM or is_last
        shorter = lengths[:-2] if is_last else lengths[:-1]  # the last one may hold a sentence that was left over
        assert sum(shorter) < MAXIMUM or len(shorter) < 2


def test_chunks_across_blocks_of_documents(corpus, chunks, monkeypatch):
    monkeypatch.setattr("bert_jax.sentence_pairs.DOCUMENTS_AT_ONCE", 7)
    again = chunk_documents(corpus.sentence_lengths, corpus.document_offsets, MAXIMUM)
    assert again.tolist() == chunks.tolist()


def test_chunks_by_hand():
    lengths = np.array([5, 5, 5, 9, 9, 30, 2], np.int32)
    offsets = np.array([0, 3, 4, 4, 7], np.int64)
    assert chunk_documents(lengths, offsets, 10).tolist() == [[0, 0, 3], [3, 0, 3]]
    assert chunk_documents(lengths[:0], offsets[:1], 10).shape == (0, 3)


def test_pairs_are_what_their_label_says(corpus, chunks):
    for (document, _, _), (first, second, label) in draw(corpus, chunks, 3000):
        assert len(first) >= 1
        assert len(second) >= 1
        assert len(first) + len(second) <= MAXIMUM
        assert (np.diff(first) == 1).all()  # each text is one run of the document
        assert (np.diff(second) == 1).all()
        assert document_of(first[0]) == document
        if label == NEXT:
            assert document_of(second[0]) == document
            whole = len(first) + len(second) < MAXIMUM  # else tokens were taken between the two
            assert second[0] == first[-1] + 1 if whole else second[0] > first[-1]
        else:
            assert label == RANDOM
            assert document_of(second[0]) != document


def test_the_border_is_between_sentences(corpus, chunks):
    starts = {sentence[0] for document in DOCUMENTS for sentence in document}
    for _, (first, second, _) in draw(corpus, chunks, 500):
        if len(first) + len(second) < MAXIMUM:
            assert first[0] in starts
            assert second[0] in starts


def test_labels_are_fair(corpus, chunks):
    labels = [pair.label for _, pair in draw(corpus, chunks, 6000)]
    assert abs(np.mean(labels) - 0.5) < 4 * np.sqrt(0.25 / 6000)


def test_random_documents_are_uniform(corpus, chunks):
    other = [document_of(p.second[0]) for _, p in draw(corpus, chunks[:1], 8000) if p.label == RANDOM]
    counts = np.bincount(other, minlength=len(DOCUMENTS))
    assert counts[chunks[0, 0]] == 0
    expected = len(other) / (len(DOCUMENTS) - 1)
    assert (np.abs(np.delete(counts, chunks[0, 0]) - expected) < 5 * np.sqrt(expected)).all()


def test_short_pairs(corpus, chunks):
    lengths = {
        share: np.array([len(p.first) + len(p.second) for _, p in draw(corpus, chunks, 4000, short_probability=share)])
        for share in (0.0, 0.1, 1.0)
    }
    # Shares of full pairs mix as the probability says.
    full = {share: np.mean(length == MAXIMUM) for share, length in lengths.items()}
    expected = 0.9 * full[0.0] + 0.1 * full[1.0]
    assert full[1.0] < 0.5 * full[0.0]
    assert abs(full[0.1] - expected) < 0.04


def test_truncation_keeps_the_texts_as_equal_as_they_can_be(tmp_path):
    sentences = [list(range(5, 105)), list(range(105, 135))], [list(range(135, 255)), list(range(255, 260))]
    corpus, _ = numbered_corpus(tmp_path, list(sentences))
    rng = np.random.default_rng(0)
    chunk = np.array([0, 0, 2], np.int64)
    starts = set()
    for _ in range(200):
        pair = draw_pair(corpus, chunk, rng, maximum=80, short_probability=0.0)
        if pair.label == NEXT:
            assert (len(pair.first), len(pair.second)) == (50, 30)
        elif len(pair.second) > 5:
            assert (len(pair.first), len(pair.second)) == (40, 40)
        starts.add(int(pair.first[0]))
    assert len(starts) > 10  # cut at the front and at the back
