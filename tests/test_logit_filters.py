"""The filters of logits: equal to the peer's, and what is drawn follows what they leave."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from core_jax.decoding import row_keys
from core_jax.errors import UserError
from core_jax.logit_filters import LogitFilters, filter_logits, keep_top_p

ROWS, VOCABULARY = 6, 83
SETTINGS = [
    LogitFilters(temperature=0.7),
    LogitFilters(temperature=1.0, top_k=7),
    LogitFilters(temperature=1.0, top_k=200),
    LogitFilters(temperature=1.3, top_p=0.6),
    LogitFilters(temperature=1.0, top_p=1e-6),
    LogitFilters(temperature=1.0, min_p=0.2),
    LogitFilters(temperature=1.0, min_p=1.0),
    LogitFilters(repetition_penalty=1.7),
    LogitFilters(repetition_penalty=0.6),
    LogitFilters(temperature=0.9, top_k=40, top_p=0.9, min_p=0.02, repetition_penalty=1.2),
]


def random_logits(seed=0, rows=ROWS):
    return np.random.default_rng(seed).normal(0, 2.5, (rows, VOCABULARY)).astype(np.float32)


def random_prompts(seed=0):
    return np.random.default_rng(seed).integers(0, VOCABULARY, (ROWS, 11), dtype=np.int32)


def seen_in(prompts):
    seen = np.zeros((len(prompts), VOCABULARY), bool)
    seen[np.arange(len(prompts))[:, None], prompts] = True
    return jnp.asarray(seen)


def peer_filtered(logits, filters, prompts):
    """What the peer's processors leave, in the order in which its `generate` calls them."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    processors = transformers.LogitsProcessorList()
    if filters.penalizes:
        processors.append(transformers.RepetitionPenaltyLogitsProcessor(filters.repetition_penalty))
    if filters.draws:
        processors.append(transformers.TemperatureLogitsWarper(filters.temperature))
    if filters.top_k:
        processors.append(transformers.TopKLogitsWarper(filters.top_k))
    if filters.top_p < 1:
        processors.append(transformers.TopPLogitsWarper(filters.top_p))
    if filters.min_p:
        processors.append(transformers.MinPLogitsWarper(filters.min_p))
    return processors(torch.tensor(prompts.astype(np.int64)), torch.tensor(logits)).numpy()


@pytest.mark.parametrize("filters", SETTINGS)
def test_filters_are_the_peers(filters):
    for seed in range(3):
        logits, prompts = random_logits(seed), random_prompts(seed)
        found = np.asarray(filter_logits(jnp.asarray(logits), filters, seen_in(prompts)))
        np.testing.assert_allclose(found, peer_filtered(logits, filters, prompts), 1e-6)
        assert np.isfinite(found).any(axis=1).all()


def test_top_p_is_what_its_definition_says():
    logits = random_logits()
    for mass in (0.01, 0.3, 0.5, 0.9, 0.999):
        kept = np.isfinite(keep_top_p(jnp.asarray(logits), mass))
        for row, found in zip(logits.astype(np.float64), kept, strict=True):
            shares = np.sort(np.exp(row) / np.exp(row).sum())[::-1]
            assert found.sum() == np.searchsorted(np.cumsum(shares), mass) + 1
            assert row[found].min() > row[~found].max()
    ties = jnp.log(jnp.array([[0.4, 0.2, 0.2, 0.2]]))
    assert np.isfinite(keep_top_p(ties, 0.5)).all()
    assert np.isfinite(keep_top_p(ties, 0.39)).sum() == 1


def test_the_prompt_is_all_that_a_repetition_penalty_changes():
    logits, prompts = random_logits(), random_prompts()
    found = np.asarray(filter_logits(jnp.asarray(logits), LogitFilters(repetition_penalty=2.0), seen_in(prompts)))
    seen = np.asarray(seen_in(prompts))
    assert (found[seen] < logits[seen]).all()
    assert (found[~seen] == logits[~seen]).all()


@pytest.mark.parametrize("filters", [SETTINGS[0], SETTINGS[1], SETTINGS[3], SETTINGS[5]])
def test_drawn_tokens_follow_the_filtered_distribution(filters):
    draws = 4000
    logits = filter_logits(jnp.asarray(random_logits(rows=1)), filters)
    keys = row_keys(3, range(draws), [0] * draws)
    tokens = np.asarray(jax.vmap(lambda key: jax.random.categorical(key, logits[0]))(keys))
    expected = draws * np.asarray(jax.nn.softmax(logits[0]), np.float64)
    counts = np.bincount(tokens, minlength=VOCABULARY)
    assert (counts[expected == 0] == 0).all()
    often = expected >= 5  # rarer tokens are counted as one, as the test's approximation asks for
    groups = np.append(counts[often], counts[~often].sum()), np.append(expected[often], expected[~often].sum())
    observed, hoped = (group[groups[1] > 0] for group in groups)
    assert scipy.stats.chisquare(observed, hoped / hoped.sum() * draws).pvalue > 1e-3
    wrong = np.roll(hoped, 1)
    assert len(hoped) == 1 or scipy.stats.chisquare(observed, wrong / wrong.sum() * draws).pvalue < 1e-6


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": 1e-40},
        {"temperature": float("nan")},
        {"top_k": -1, "temperature": 1.0},
        {"top_p": 0.0, "temperature": 1.0},
        {"top_p": 1.5, "temperature": 1.0},
        {"min_p": 2.0, "temperature": 1.0},
        {"repetition_penalty": 0.0},
    ],
)
def test_wrong_settings_are_refused(wrong):
    [name, *_] = wrong
    with pytest.raises(UserError, match=f"--{name}={wrong[name]}: expected"):
        LogitFilters(**wrong)


@pytest.mark.parametrize("name", ["top_k", "top_p", "min_p"])
def test_filters_of_draws_need_a_temperature(name):
    value = {"top_k": 3, "top_p": 0.5, "min_p": 0.5}[name]
    with pytest.raises(UserError, match=f"--{name}: .*--temperature=1"):
        LogitFilters(**{name: value})
    assert dataclasses.replace(LogitFilters(temperature=1.0), **{name: value}).draws
