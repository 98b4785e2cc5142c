"""Beam search: to the token what exhaustive search finds, and what the peer's does with the same GPT-2."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.gpt import Gpt, decode_step, prefill
from core_jax.beam_search import BeamSearcher, BeamSettings
from core_jax.decoding import Decoder, row_keys, tokens_seen
from core_jax.errors import UserError
from core_jax.key_value_cache import take_rows
from core_jax.logit_filters import LogitFilters
from tests.tiny_gpt import changed, padded, random_params, random_tokens
from tests.toy_decoder import VOCABULARY, logits_after, take_toy_rows, toy_params, toy_prefill, toy_step

CONFIG = changed(maximum_positions=40)
CAPACITY, LENGTHS = 32, (3, 9, 6)


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def search(searcher, params, start, limit, *, places, ended=None, seen=None):
    logits, cache = start
    ended = jnp.zeros(len(logits), bool) if ended is None else ended
    state = searcher.start(logits, cache, jnp.int32(limit), ended, seen, places=places)
    while state.goes_on:
        state = searcher.advance(params, state, jnp.int32(limit))
    tokens, lengths, scores = jax.device_get(state.finished)
    return [
        [(row[:length].tolist(), float(score)) for row, length, score in zip(*beams, strict=True)]
        for beams in zip(tokens, lengths, scores, strict=True)
    ]


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_as_many_beams_as_there_are_texts_find_the_best_of_all(penalty):
    limit, prompt, ends = 2, [4, 9], (3,)
    settings = BeamSettings(beams=VOCABULARY, length_penalty=penalty, early_stopping="never")
    searcher = BeamSearcher(toy_step, take_toy_rows, settings, LogitFilters(), ends)
    [found] = search(searcher, toy_params(), toy_prefill(toy_params(), [prompt]), limit, places=limit)
    every = []
    first = log_softmax(logits_after(toy_params(), prompt))
    for token in range(VOCABULARY):
        if token in ends:
            every.append(([token], first[token]))
            continue
        second = log_softmax(logits_after(toy_params(), [*prompt, token]))
        every += [([token, other], (first[token] + second[other]) / limit**penalty) for other in range(VOCABULARY)]
    best = sorted(every, key=lambda pair: -pair[1])[: len(found)]
    assert [tokens for tokens, _ in found] == [tokens for tokens, _ in best]
    np.testing.assert_allclose([score for _, score in found], [score for _, score in best], 1e-5)


def test_one_beam_is_greedy():
    decoder = Decoder(toy_step, LogitFilters())
    start = toy_prefill(toy_params(), [[7], [2, 2]])
    state = decoder.start(*start, row_keys(0, [0, 1], [0, 0]), jnp.zeros(2, bool))
    first = np.asarray(state.tokens)
    _, tokens = decoder.advance(toy_params(), state, row_keys(0, [0, 1], [0, 0]), jnp.int32(9))
    greedy = np.concatenate((first[None], np.asarray(tokens)[:9])).T.tolist()
    searcher = BeamSearcher(toy_step, take_toy_rows, BeamSettings(beams=1), LogitFilters(), ())
    found = search(searcher, toy_params(), start, 10, places=16)
    assert [beams[0][0] for beams in found] == greedy


@pytest.mark.slow
def test_prompts_that_fill_up_change_nothing():
    searcher = BeamSearcher(
        toy_step, take_toy_rows, BeamSettings(beams=3, early_stopping="True"), LogitFilters(), (5, 9)
    )
    prompts = [[7], [2, 2], [1]]
    alone = search(searcher, toy_params(), toy_prefill(toy_params(), prompts[:2]), 12, places=12)
    ended = jnp.array([False, False, True])
    more = search(searcher, toy_params(), toy_prefill(toy_params(), prompts), 12, places=12, ended=ended)
    for beams, same in zip(alone, more[:2], strict=True):
        assert [tokens for tokens, _ in beams] == [tokens for tokens, _ in same]


def test_what_is_never_written_leaves_the_other_scores_alone():
    start = toy_prefill(toy_params(), [[7], [2, 2]])
    settings = BeamSettings(beams=40)  # more than there are continuations of one token: all are found
    scores = []
    for never in ((), (3,)):
        searcher = BeamSearcher(toy_step, take_toy_rows, settings, LogitFilters(), (), never=never)
        found = search(searcher, toy_params(), start, 1, places=4)
        scores.append([{tokens[0]: score for tokens, score in beams if np.isfinite(score)} for beams in found])
    for every, some in zip(*scores, strict=True):
        assert 3 in every
        assert some == {token: score for token, score in every.items() if token != 3}


@pytest.mark.parametrize("penalty", [float("nan"), -1000.0, float("inf")])
def test_powers_that_no_float_holds_are_refused(penalty):
    with pytest.raises(UserError, match="--length_penalty"):
        BeamSettings(length_penalty=penalty)


def test_no_beams_are_refused():
    with pytest.raises(UserError, match="--beams=0: expected 1"):
        BeamSettings(beams=0)


@functools.cache
def peer(seed):
    """The peer with our random weights, larger than usual so that beams part."""
    transformers = pytest.importorskip("transformers")
    import tempfile

    from bert_jax.gpt_weights import write_hf

    params = sharp_params(seed)
    with tempfile.TemporaryDirectory() as folder:
        write_hf(f"{folder}/model", CONFIG, params)
        return transformers.GPT2LMHeadModel.from_pretrained(f"{folder}/model").eval()


def sharp_params(seed):
    params = random_params(CONFIG, seed)
    params["embeddings"]["token"]["embedding"] *= 8.0
    return params


def peer_continuations(seed, tokens, valid, ends, limit, count=1, **options):
    """What the peer's `generate` adds to each prompt, up to and with the token that ended it; `count` of each."""
    torch = pytest.importorskip("torch")
    rows = torch.tensor(np.asarray(tokens).astype(np.int64))
    arguments = {"attention_mask": torch.tensor(np.asarray(valid).astype(np.int64)), "max_new_tokens": limit}
    arguments |= {"eos_token_id": list(ends) or None, "pad_token_id": 0, "do_sample": False}
    with torch.inference_mode():
        out = peer(seed).generate(rows, **arguments, num_return_sequences=count, **options)
    found = [row.tolist() for row in out[:, rows.shape[1] :]]
    cut = [row[: next((n + 1 for n, token in enumerate(row) if token in ends), limit)] for row in found]
    return [cut[place : place + count] for place in range(0, len(cut), count)]


@functools.cache
def functions():
    model = Gpt(CONFIG)
    return (
        jax.jit(functools.partial(prefill, model), static_argnames="capacity"),
        functools.partial(decode_step, model),
    )


def prompts_of(seed, side):
    return padded(random_tokens(len(LENGTHS), max(LENGTHS), seed, CONFIG), LENGTHS, side, filler=1)


CASES = [
    (0, "left", {"length_penalty": 1.0, "early_stopping": False}, 4),
    (1, "right", {"length_penalty": 2.0, "early_stopping": True}, 3),
    (2, "left", {"length_penalty": -1.0, "early_stopping": "never"}, 4),
    (3, "right", {"length_penalty": 0.5, "early_stopping": "never"}, 2),
    (4, "left", {"length_penalty": 0.0, "early_stopping": False}, 5),
    (5, "right", {"length_penalty": 1.0, "early_stopping": True}, 2),
]


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "side", "options", "beams"), CASES)
def test_beams_are_the_peers(seed, side, options, beams):
    ends, limit = (5, 23), 14
    expected = peer_continuations(seed, *prompts_of(seed, "left"), ends, limit, beams, num_beams=beams, **options)
    early: Any = str(options["early_stopping"])
    settings = BeamSettings(beams=beams, length_penalty=options["length_penalty"], early_stopping=early)
    read, step = functions()
    searcher = BeamSearcher(step, take_rows, settings, LogitFilters(), ends)
    params = sharp_params(seed)
    start = read(params, *prompts_of(seed, side), capacity=CAPACITY)
    found = search(searcher, params, start, limit, places=CAPACITY)
    assert [[tokens for tokens, _ in beams] for beams in found] == expected
    assert len({tuple(tokens) for beams in expected for tokens in beams}) > beams


@pytest.mark.slow
def test_beams_with_a_repetition_penalty_are_the_peers():
    tokens = random_tokens(2, 6, 4, CONFIG)
    valid = jnp.ones_like(tokens, bool)
    options = {"num_beams": 3, "repetition_penalty": 1.4}
    expected = peer_continuations(0, tokens, valid, (5,), 12, 3, **options)
    read, step = functions()
    searcher = BeamSearcher(step, take_rows, BeamSettings(beams=3), LogitFilters(repetition_penalty=1.4), (5,))
    params = sharp_params(0)
    start = read(params, tokens, valid, capacity=CAPACITY)
    seen = tokens_seen(tokens, valid, CONFIG.vocab_size)
    found = search(searcher, params, start, 12, places=CAPACITY, seen=seen)
    assert [[tokens for tokens, _ in beams] for beams in found] == expected


def test_greedy_tokens_are_the_peers():
    ends, limit = (5, 23), 20
    read, step = functions()
    decoder, keys = Decoder(step, LogitFilters(), ends), row_keys(0, range(3), [0] * 3)
    for seed, side in ((0, "left"), (0, "right"), (1, "left"), (2, "right")):
        expected, params = peer_continuations(seed, *prompts_of(seed, "left"), ends, limit), sharp_params(seed)
        state = decoder.start(*read(params, *prompts_of(seed, side), capacity=CAPACITY), keys, jnp.zeros(3, bool))
        first = np.asarray(state.tokens)
        state, tokens = decoder.advance(params, state, keys, jnp.int32(limit - 1))
        rows = np.concatenate((first[None], np.asarray(tokens)[: int(state.count) - 1])).T.tolist()
        cut = [row[: next((n + 1 for n, token in enumerate(row) if token in ends), limit)] for row in rows]
        assert [[row] for row in cut] == expected
