import numpy as np
import pytest

from bert_jax.masking import mask_tokens

MASK, VOCABULARY = 4, 1000
ORDINARY = np.arange(10, VOCABULARY, dtype=np.int32)
CONTINUES = np.arange(VOCABULARY) % 3 == 0


def masked(tokens, maskable, seed, *, whole_words=False, probability=0.15, maximum_predictions=100):
    return mask_tokens(
        tokens,
        maskable,
        np.random.default_rng(seed),
        mask_id=MASK,
        ordinary_ids=ORDINARY,
        continues_word=CONTINUES,
        probability=probability,
        maximum_predictions=maximum_predictions,
        whole_words=whole_words,
    )


def sequence(seed, length=128):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(10, VOCABULARY, length, dtype=np.int32)
    maskable = np.ones(length, bool)
    maskable[[0, 50, 100, *range(101, length)]] = False
    return tokens, maskable


@pytest.mark.parametrize("whole_words", [False, True])
def test_what_changes_and_what_does_not(whole_words):
    for seed in range(300):
        tokens, maskable = sequence(seed)
        before = tokens.copy()
        after, positions, labels = masked(tokens, maskable, seed, whole_words=whole_words)
        assert (tokens == before).all()
        assert (np.diff(positions) > 0).all()
        assert maskable[positions].all()
        assert (labels == tokens[positions]).all()
        untouched = np.ones(128, bool)
        untouched[positions] = False
        assert (after[untouched] == tokens[untouched]).all()
        changed = after[after != tokens]
        assert (np.isin(changed, ORDINARY) | (changed == MASK)).all()
        assert len(positions) <= 15 if whole_words else len(positions) == 15  # 0.15 of 98, rounded


@pytest.mark.parametrize("whole_words", [False, True])
def test_shares(whole_words):
    kinds, where = np.zeros(3), np.zeros(128)
    for seed in range(3000):
        tokens, maskable = sequence(seed)
        after, positions, labels = masked(tokens, maskable, seed, whole_words=whole_words)
        seen = after[positions]
        kinds += [(seen == MASK).sum(), ((seen != MASK) & (seen != labels)).sum(), (seen == labels).sum()]
        where[positions] += 1
    total = kinds.sum()
    for kind, share in zip(kinds, (0.8, 0.1, 0.1), strict=True):
        assert abs(kind / total - share) < 4 * np.sqrt(share * (1 - share) / total) + 0.001
    places = where[where > 0]  # all positions alike
    assert len(places) == 98
    if not whole_words:
        assert (np.abs(places - total / 98) < 5 * np.sqrt(total / 98)).all()


def test_whole_words_stay_whole():
    for seed in range(300):
        tokens, maskable = sequence(seed)
        _, positions, _ = masked(tokens, maskable, seed, whole_words=True)
        chosen = set(positions.tolist())
        for place in range(1, 128):
            if maskable[place] and maskable[place - 1] and CONTINUES[tokens[place]]:
                assert (place in chosen) == (place - 1 in chosen)
        assert len(chosen) >= 12  # words that would pass the number are skipped, others fill it


def test_numbers():
    tokens, maskable = sequence(0)
    assert len(masked(tokens, maskable, 0, maximum_predictions=7)[1]) == 7
    assert len(masked(tokens, maskable, 0, probability=0.001)[1]) == 1
    assert len(masked(tokens, maskable, 0, probability=1.0)[1]) == 98
    for whole_words in (False, True):
        assert len(masked(tokens, np.zeros(128, bool), 0, whole_words=whole_words)[1]) == 0
        assert len(masked(tokens[:1], np.ones(1, bool), 0, whole_words=whole_words)[1]) == 1
