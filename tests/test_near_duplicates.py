import numpy as np
import pytest

from bert_jax.corpus import open_corpus
from bert_jax.corpus_building import build_corpus
from bert_jax.near_duplicates import PERMUTATIONS, RUN, sign, similarity
from core_jax.external_sort import sorted_buckets
from tests.numbered_text import numbered_tokenizer


def runs(tokens):
    """The set that MinHash stands for."""
    return {tuple(tokens[start : start + RUN]) for start in range(max(1, len(tokens) - RUN + 1))}


def changed(rng, document, share):
    """A document in which some tokens are others."""
    other = document.copy()
    places = rng.random(len(document)) < share
    other[places] = rng.integers(5, 2000, places.sum())
    return other


def test_estimates_are_those_of_the_true_similarity():
    rng = np.random.default_rng(0)
    errors = []
    for share in (0.0, 0.005, 0.02, 0.05, 0.2, 1.0):
        pairs = []
        for _ in range(40):
            document = rng.integers(5, 2000, rng.integers(3, 300))
            pairs += [document, changed(rng, document, share)]
        lengths = np.array(list(map(len, pairs)))
        bands, sketches = sign(np.concatenate(pairs).astype(np.int32), lengths)
        estimated = similarity(sketches[::2], sketches[1::2])
        sets = [runs(document.tolist()) for document in pairs]
        true = np.array([len(a & b) / len(a | b) for a, b in zip(sets[::2], sets[1::2], strict=True)])
        errors.append((estimated - true) / np.sqrt(true * (1 - true) / PERMUTATIONS + 1 / 256 / PERMUTATIONS))
        shares_band = (bands[::2] == bands[1::2]).any(axis=1)
        assert shares_band[true >= 0.95].all()
        assert not shares_band[true <= 0.2].any()
    scaled = np.concatenate(errors)
    assert abs(scaled.mean()) < 0.3  # 4 standard errors of a mean of 240
    assert 0.6 < scaled.std() < 1.4
    assert np.abs(scaled).max() < 5


def test_what_a_document_is_summed_up_to_follows_from_it_alone():
    rng = np.random.default_rng(1)
    documents = [rng.integers(5, 100, length) for length in (1, 4, 5, 6, 1, 90)]
    lengths = np.array(list(map(len, documents)))
    together = sign(np.concatenate(documents).astype(np.int32), lengths)
    for number, document in enumerate(documents):
        alone = sign(document.astype(np.int32), np.array([len(document)]))
        for one, other in zip(alone, together, strict=True):
            assert (one[0] == other[number]).all()


def test_near_duplicates_in_a_corpus_are_counted_once(tmp_path):
    rng = np.random.default_rng(2)
    documents = [rng.integers(0, 2000, 120) for _ in range(200)]
    near = [documents[i].copy() for i in range(30)] + [documents[0].copy()]
    for number, document in enumerate(near):
        document[60 + number] = 1999 - document[60 + number]  # changes 5 of 116 runs: similarity 0.92
    copies = [documents[7], near[3]]
    texts = [" ".join(f"w{word}" for word in document) for document in documents + near + copies]
    summary = build_corpus([texts[:100], texts[100:]], numbered_tokenizer(2000), tmp_path / "c", held_out=0.1)
    assert (summary.duplicates, summary.near_duplicates) == (2, 31)
    assert len(open_corpus(tmp_path / "c", "train")) + len(open_corpus(tmp_path / "c", "held_out")) == 231


def test_repeated_sentences(tmp_path):
    texts = ["w1 w2\nw3", "w4\nw1  w2", "w5\nw5\nw6", "w4\nw1  w2", "w7"]
    summary = build_corpus([texts[:2], texts[2:]], numbered_tokenizer(10), tmp_path / "c", held_out=0.0)
    assert summary.duplicates == 1
    assert summary.repeated_sentences == 2  # w1 w2 and w5; those of the copy, which is left out, do not count


@pytest.mark.parametrize(("records_at_once", "open_files"), [(10_000, 4), (100, 4), (37, 3), (1, 256)])
def test_buckets_are_sorted_and_hold_all_of_a_key(tmp_path, records_at_once, open_files):
    rng = np.random.default_rng(3)
    records = np.zeros(1000, [("key", np.uint64), ("position", np.int64)])
    records["key"] = rng.integers(2**64, size=400, dtype=np.uint64)[rng.integers(400, size=1000)]
    records["position"] = np.arange(1000)

    def read():
        return iter(np.array_split(records, 7))

    found = list(sorted_buckets(read, 1000, tmp_path, records_at_once=records_at_once, open_files=open_files))
    keys = [set(bucket["key"].tolist()) for bucket in found]
    assert sum(map(len, keys)) == len(set(records["key"].tolist()))
    for bucket in found:
        assert (bucket == np.sort(bucket, order=["key", "position"])).all()
    together = np.concatenate(found)
    assert (together[np.argsort(together["position"])] == records).all()
    assert not list(tmp_path.iterdir())
    assert list(sorted_buckets(lambda: iter(()), 0, tmp_path)) == []
