"""Decoding of any model: the likeliest tokens, ends, draws that depend on nothing else, one compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from core_jax.decoding import CHUNK, Decoder, row_keys, tokens_seen
from core_jax.logit_filters import LogitFilters
from core_jax.sharding import batch_sharding, parse_mesh
from tests.toy_decoder import VOCABULARY, logits_after, toy_params, toy_prefill, toy_step

PROMPTS = [[3, 7, 7], [11], [5, 2, 19, 4]]
DRAWN = LogitFilters(temperature=1.0, top_k=20)


def decode(decoder, prompts, count, *, params=None, seed=0, numbers=None, samples=None, chunk=CHUNK):
    """The new tokens of each prompt, up to and with the one that ended it."""
    params = toy_params() if params is None else params
    logits, cache = toy_prefill(params, prompts)
    keys = row_keys(seed, numbers or range(len(prompts)), samples or [0] * len(prompts))
    longest = max(map(len, prompts))
    rows = jnp.array([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    valid = jnp.arange(longest)[None] >= jnp.array([[longest - len(prompt)] for prompt in prompts])
    seen = tokens_seen(rows, valid, VOCABULARY) if decoder._filters.penalizes else None
    state = decoder.start(logits, cache, keys, jnp.zeros(len(prompts), bool), seen)
    found = [np.asarray(state.tokens)]
    while (done := int(state.count)) < count and not np.all(state.ended):
        state, tokens = decoder.advance(params, state, keys, jnp.int32(min(count - done, chunk)))
        found += list(np.asarray(tokens)[: int(state.count) - done])
    return [cut(row, decoder._ends) for row in np.stack(found, axis=1).tolist()]


def cut(tokens, ends):
    places = [place for place, token in enumerate(tokens) if token in ends]
    return tokens[: places[0] + 1] if places else tokens


def by_hand(prompt, count, ends=(), penalty=1.0):
    tokens = list(prompt)
    while len(tokens) < len(prompt) + count and (len(tokens) == len(prompt) or tokens[-1] not in ends):
        logits = logits_after(toy_params(), tokens)
        seen = np.isin(np.arange(VOCABULARY), tokens)
        logits = np.where(seen, np.where(logits > 0, logits / penalty, logits * penalty), logits)
        tokens.append(int(np.argmax(logits)))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("penalty", [1.0, 1.8])
def test_greedy_tokens_are_those_of_a_loop_by_hand(penalty):
    decoder = Decoder(toy_step, LogitFilters(repetition_penalty=penalty))
    assert decode(decoder, PROMPTS, 40) == [by_hand(prompt, 40, penalty=penalty) for prompt in PROMPTS]


def test_rows_end_each_at_its_own_token():
    free = [by_hand(prompt, 12) for prompt in PROMPTS]
    ends = (free[0][3], free[1][7])
    found = decode(Decoder(toy_step, LogitFilters(), ends), PROMPTS, 12)
    assert found == [by_hand(prompt, 12, ends) for prompt in PROMPTS]
    assert len({len(tokens) for tokens in found}) > 1


def test_a_draw_depends_on_seed_prompt_sample_and_place_alone():
    decoder = Decoder(toy_step, DRAWN)
    together = decode(decoder, PROMPTS, 30)
    assert together == decode(decoder, PROMPTS, 30, chunk=7)
    for number, prompt in enumerate(PROMPTS):
        assert [together[number]] == decode(decoder, [prompt], 30, numbers=[number])
    assert together[::-1] == decode(decoder, PROMPTS[::-1], 30, numbers=[2, 1, 0])
    assert together != decode(decoder, PROMPTS, 30, seed=1)
    same = decode(decoder, [PROMPTS[0]] * 3, 30, numbers=[0, 0, 5], samples=[0, 1, 0])
    assert same[0] == together[0]
    assert len({tuple(tokens) for tokens in same}) == 3


def test_draws_do_not_depend_on_the_mesh():
    decoder, prompts = Decoder(toy_step, DRAWN), [[number + 1] for number in range(8)]
    alone = decode(decoder, prompts, 20)
    mesh = parse_mesh("data:8")
    rows, everywhere = batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    keys = row_keys(0, range(8), [0] * 8)
    start = toy_prefill(toy_params(), prompts)
    params = jax.device_put(toy_params(), everywhere)
    state = decoder.start(*jax.device_put((*start, keys, jnp.zeros(8, bool)), rows))
    first = np.asarray(state.tokens)
    _, tokens = decoder.advance(params, state, jax.device_put(keys, rows), jnp.int32(19))
    assert np.concatenate((first[None], np.asarray(tokens)[:19])).T.tolist() == alone


def test_one_compilation_serves_every_length():
    traces = []

    def step(params, tokens, cache):
        traces.append(tokens.shape)
        return toy_step(params, tokens, cache)

    decoder = Decoder(step, LogitFilters())
    for prompt, count in (([3], 2), ([3, 4, 5, 6], 9), ([1, 2], 80)):
        assert decode(decoder, [prompt], count) == [by_hand(prompt, count)]
    assert len(traces) <= 2  # a loop's body is traced a second time where types have to be settled
    assert decoder.advance._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue]


def test_padding_is_not_seen():
    seen = tokens_seen(jnp.array([[4, 4, 2], [1, 0, 5]]), jnp.array([[0, 1, 1], [1, 1, 0]], bool), 6)
    assert [np.flatnonzero(row).tolist() for row in np.asarray(seen)] == [[2, 4], [0, 1]]
