"""GPT: nobody sees what comes, padding changes nothing, and decoding with a cache is reading the whole text again."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import BASE
from bert_jax.gpt import Gpt, decode_step, prefill
from bert_jax.gpt_config import SIZES
from bert_jax.gpt_tasks import initial_params
from core_jax.errors import UserError
from core_jax.key_value_cache import take_rows
from core_jax.sharding import by_path, global_batch, parse_mesh, tree_shardings
from core_jax.transformer import stack_layers
from tests.tiny_gpt import CONFIG, changed, padded, random_params, random_tokens

ROWS, LENGTH, CAPACITY = 4, 12, 15
LENGTHS = (5, 1, 3, 4)  # of prompts
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


@functools.cache
def setup(scan_layers=False, attention="auto"):
    """A model, its parameters, and the compiled logits, prefill and step."""
    model, params = Gpt(changed(scan_layers=scan_layers, attention=attention)), random_params()
    if scan_layers:
        params = params | {"decoder": stack_layers(params["decoder"])}
    logits = jax.jit(lambda params, *inputs: model.apply({"params": params}, *inputs))
    reads = jax.jit(functools.partial(prefill, model), static_argnames="capacity")
    return model, params, logits, reads, jax.jit(functools.partial(decode_step, model))


def decode_all(reads, step, params, tokens, lengths, side, filler=0):
    """The logits after each prompt, and after each token that follows it, with a cache."""
    prompts, valid = padded(tokens, lengths, side, filler)
    logits, cache = reads(params, prompts, valid, capacity=CAPACITY)
    found = [logits]
    for number in range(LENGTH - max(lengths)):
        following = jnp.stack([tokens[row, length + number] for row, length in enumerate(lengths)])
        logits, cache = step(params, following, cache=cache)
        found.append(logits)
    return np.stack(found, axis=1)  # B N V


def expected_logits(logits, params, tokens, lengths):
    whole = np.asarray(logits(params, tokens))
    count = LENGTH - max(lengths) + 1
    return np.stack([whole[row, length - 1 : length - 1 + count] for row, length in enumerate(lengths)])


@pytest.mark.parametrize(
    ("side", "scan_layers"),
    [
        ("left", False),
        ("right", True),
        pytest.param("right", False, marks=pytest.mark.slow),
        pytest.param("left", True, marks=pytest.mark.slow),
    ],
)
def test_decoding_with_a_cache_is_reading_everything_again(side, scan_layers):
    _, params, logits, reads, step = setup(scan_layers)
    tokens = random_tokens(ROWS, LENGTH)
    found = decode_all(reads, step, params, tokens, LENGTHS, side)
    close(found, expected_logits(logits, params, tokens, LENGTHS))
    # What stands in the padding is nobody's business.
    np.testing.assert_array_equal(decode_all(reads, step, params, tokens, LENGTHS, side, filler=7), found)


def test_one_compiled_step_serves_every_length():
    model, params, _, reads, _ = setup()
    step: Any = jax.jit(functools.partial(decode_step, model), donate_argnames="cache")
    _, cache = reads(params, *padded(random_tokens(ROWS, LENGTH), LENGTHS, "left", 0), capacity=CAPACITY)
    for number in range(4):
        _, cache = step(params, random_tokens(ROWS, 1, number)[:, 0], cache=cache)
    assert step._cache_size() == 1
    assert (int(cache.filled), cache.segments.sum(axis=1).tolist()) == (9, [length + 4 for length in LENGTHS])


def test_several_tokens_at_once_go_into_a_cache_too():
    model, params, logits, reads, _ = setup()
    tokens = random_tokens(ROWS, LENGTH)
    _, cache = reads(params, tokens[:, :5], jnp.ones((ROWS, 5), bool), capacity=CAPACITY)

    @jax.jit
    def read(tokens, cache):
        hidden, cache = model.apply({"params": params}, tokens, cache=cache, method=Gpt.read)
        return model.apply({"params": params}, hidden, method=Gpt.decode), cache

    found, cache = read(tokens[:, 5:9], cache)
    close(found, logits(params, tokens)[:, 5:9])
    assert int(cache.filled) == 9


def test_decoding_is_the_same_on_a_mesh():
    model, params, *_ = setup()
    tokens, mesh = random_tokens(ROWS, LENGTH), parse_mesh("data:2,fsdp:2,tensor:2")
    expected = decode_all(*setup()[3:], params, tokens, LENGTHS, "left")
    prompts, valid = padded(tokens, LENGTHS, "left", 0)
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, tree_shardings(params, mesh))
        step = jax.jit(functools.partial(decode_step, model))
        reads = jax.jit(functools.partial(prefill, model), static_argnames="capacity")
        inputs = global_batch((np.asarray(prompts), np.asarray(valid)), mesh)
        logits, cache = reads(placed, *inputs, capacity=CAPACITY)
        close(logits, expected[:, 0])
        following = np.array([tokens[row, length] for row, length in enumerate(LENGTHS)])
        logits, cache = step(placed, global_batch(following, mesh), cache=cache)
        close(logits, expected[:, 1])
        keys = cache.layers["block_0"].keys
    parts = mesh.shape["data"] * mesh.shape["fsdp"], mesh.shape["tensor"]
    assert keys.sharding.shard_shape(keys.shape) == (ROWS // parts[0], CONFIG.heads // parts[1], CAPACITY, 6)


@pytest.mark.parametrize("scan_layers", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_rows_of_a_cache_can_be_taken_in_any_order(scan_layers):
    _, params, _, reads, step = setup(scan_layers)
    tokens, rows = random_tokens(ROWS, LENGTH), jnp.array([2, 0, 0, 3, 1])
    prompts, valid = padded(tokens, LENGTHS, "right", 0)
    _, cache = reads(params, prompts, valid, capacity=CAPACITY)
    found, _ = step(params, tokens[:, 7][rows], cache=take_rows(cache, rows))
    expected, _ = step(params, tokens[:, 7], cache=cache)
    close(found, expected[rows])


@pytest.mark.parametrize("attention", ["xla", pytest.param("reference", marks=pytest.mark.slow)])
def test_gradients_show_that_nobody_sees_what_comes_or_another_text(attention):
    model, params, *_ = setup(attention=attention)
    segments = jnp.array([[1, 1, 1, 1, 2, 2, 2, 0, 0]])
    positions = jnp.array([[0, 1, 2, 3, 0, 1, 2, 0, 0]])
    tokens = random_tokens(1, 9)

    def logits(embedded):  # of the embeddings of the tokens of a row, one row of a table for each
        table = {"embeddings": params["embeddings"] | {"token": {"embedding": embedded}}}
        inputs = (jnp.arange(9)[None], segments, positions)
        hidden = Gpt(changed(vocab_size=9, attention=attention)).apply(
            {"params": params | table}, *inputs, method=Gpt.read
        )
        return hidden[0].sum(axis=-1, where=jnp.arange(24)[None] % 3 == 0)

    table = jnp.asarray(params["embeddings"]["token"]["embedding"])[tokens[0]]
    gradients = np.abs(jax.jit(jax.jacrev(logits))(table)).max(axis=2)  # of each position's state by each token
    segment = np.asarray(segments[0])
    seen = (segment[:, None] == segment[None, :]) & np.tri(9, dtype=bool)
    np.testing.assert_array_equal(gradients > 0, seen)
    assert gradients[seen].min() > 1e-6
    assert model.config.causal


def test_packed_texts_and_padding_are_texts_on_their_own():
    _, params, logits, *_ = setup()
    tokens = random_tokens(1, 9)
    segments, positions = jnp.array([[1, 1, 1, 1, 2, 2, 2, 0, 0]]), jnp.array([[0, 1, 2, 3, 0, 1, 2, 0, 0]])
    packed = logits(params, tokens, segments, positions)
    close(packed[:, :4], logits(params, tokens[:, :4]))
    close(packed[:, 4:7], logits(params, tokens[:, 4:7]))
    left, valid = padded(tokens, (4,), "left", 0)
    shifted = jnp.pad(left, ((0, 0), (3, 0)), constant_values=9)
    close(logits(params, shifted, jnp.pad(valid, ((0, 0), (3, 0))).astype(jnp.int32))[:, 3:], packed[:, :4])


def test_prompts_that_do_not_fit_are_refused():
    model, params, *_ = setup()
    tokens, valid = jnp.zeros((1, 9), jnp.int32), jnp.ones((1, 9), bool)
    with pytest.raises(UserError, match="17 positions"):
        prefill(model, params, tokens, valid, 18)
    with pytest.raises(UserError, match="9 tokens of prompts"):
        prefill(model, params, tokens, valid, 8)


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("gpt2-small", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_sizes_are_those_of_the_published_weights(preset, count):
    shapes = jax.eval_shape(
        initial_params(Gpt(dataclasses.replace(SIZES[preset], scan_layers=True))), jax.random.key(0)
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


@pytest.mark.parametrize("scan_layers", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_parameters_start_as_in_the_original(scan_layers):
    config = changed(width=64, depth=3, mlp_width=128, scan_layers=scan_layers)
    params = jax.jit(initial_params(Gpt(config)))(jax.random.key(0))
    for path, leaf in by_path(params).items():
        name = path.rsplit("/", 1)[1]
        if name not in ("kernel", "embedding"):
            np.testing.assert_array_equal(leaf, np.ones_like(leaf) if name == "scale" else np.zeros_like(leaf))
            continue
        ends_branch = path.endswith(("attention/out/kernel", "mlp/down/kernel"))
        deviation = 0.02 / (6**0.5 if ends_branch else 1)
        assert leaf.std() == pytest.approx(deviation, rel=0.05), path
        assert np.abs(leaf).max() > 2.5 * deviation, path  # not cut off


def test_each_family_looks_its_own_way():
    with pytest.raises(UserError, match="--causal=False"):
        changed(causal=False)
    with pytest.raises(UserError, match="--causal=True"):
        dataclasses.replace(BASE, causal=True)
