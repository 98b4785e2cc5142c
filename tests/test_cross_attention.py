"""Attention to others: who sees whom, and that a cache which has kept the others stands for them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.gpt import Gpt, decode_step, prefill
from core_jax.key_value_cache import take_rows
from core_jax.multihead_attention import Others
from core_jax.sharding import global_batch, parse_mesh, tree_shardings
from core_jax.transformer import stack_layers
from tests.tiny_gpt import CONFIG, changed, padded, random_tokens

ROWS, LENGTH, CAPACITY = 4, 9, 12
PROMPTS = (3, 1, 2, 3)  # tokens of each
REAL = (5, 7, 1, 6)  # others of each row
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def others(filler=0.0):
    """Others of each row, padded with anything."""
    segments = (jnp.arange(max(REAL))[None] < jnp.array(REAL)[:, None]).astype(jnp.int32)
    hidden = jnp.where(segments[:, :, None] > 0, draw(1, ROWS, max(REAL), CONFIG.width), filler)
    return Others(hidden, segments)


@functools.cache
def random_params():
    """Parameters, none of them zero, of an unrolled GPT that looks at others."""
    init = lambda key: Gpt(CONFIG).init(key, random_tokens(1, 2), others=Others(others().hidden[:1]))  # noqa: E731
    leaves, tree = jax.tree.flatten(jax.eval_shape(init, jax.random.key(0))["params"])
    return jax.tree.unflatten(tree, [0.3 * draw(3 + number, *leaf.shape) for number, leaf in enumerate(leaves)])


@functools.cache
def setup(scan_layers=False):
    model, params = Gpt(changed(scan_layers=scan_layers)), random_params()
    if scan_layers:
        params = params | {"decoder": stack_layers(params["decoder"])}
    whole = jax.jit(lambda params, *inputs, others: model.apply({"params": params}, *inputs, others=others))
    reads = jax.jit(functools.partial(prefill, model), static_argnames="capacity")
    return params, whole, reads, jax.jit(functools.partial(decode_step, model))


def decode_all(setup, tokens, side, others):
    """The logits after each prompt, and after each token that follows it, with a cache that keeps the others."""
    params, _, reads, step = setup
    logits, cache = reads(params, *padded(tokens, PROMPTS, side, 0), capacity=CAPACITY, others=others)
    found = [logits]
    for number in range(LENGTH - max(PROMPTS)):
        following = jnp.stack([tokens[row, length + number] for row, length in enumerate(PROMPTS)])
        logits, cache = step(params, following, cache=cache)
        found.append(logits)
    return np.stack(found, axis=1)


@pytest.mark.parametrize(("side", "scan_layers"), [("left", False), ("right", True)])
def test_a_cache_that_keeps_the_others_stands_for_them(side, scan_layers):
    params, whole, *_ = setup(scan_layers)
    tokens = random_tokens(ROWS, LENGTH)
    expected = np.asarray(whole(params, tokens, jnp.ones_like(tokens), others=others()))
    found = decode_all(setup(scan_layers), tokens, side, others())
    for row, length in enumerate(PROMPTS):
        close(found[row], expected[row, length - 1 : length + found.shape[1] - 1])
    # What stands in the padding of the others is nobody's business.
    np.testing.assert_array_equal(decode_all(setup(scan_layers), tokens, side, others(filler=9.0)), found)


def test_a_position_sees_the_others_of_its_own_segment_alone():
    params = random_params()
    tokens, seen = random_tokens(1, 6), draw(2, 1, 5, CONFIG.width)
    segments, other_segments = jnp.array([[1, 1, 1, 2, 2, 0]]), jnp.array([[1, 1, 2, 2, 0]])

    def logits_of(hidden, position):
        looked = Others(hidden, other_segments)
        return jnp.sum(Gpt(CONFIG).apply({"params": params}, tokens, segments, others=looked)[0, position])  # pyright: ignore

    gradients = jax.jit(jax.vmap(jax.grad(logits_of), in_axes=(None, 0)))(seen, jnp.arange(5))
    sees = np.abs(np.asarray(gradients)).max(axis=(1, 3)) > 0  # positions x others
    np.testing.assert_array_equal(sees, np.asarray(segments).T[:5] == np.asarray(other_segments))


def test_packed_rows_are_rows_of_their_own():
    params, whole, *_ = setup()
    tokens, hidden = random_tokens(2, 3), draw(2, 2, 4, CONFIG.width)
    apart = whole(params, tokens, others=Others(hidden))
    joined = Others(hidden.reshape(1, 8, -1), jnp.repeat(jnp.array([[1, 2]]), 4, axis=1))
    segments, positions = jnp.repeat(jnp.array([[1, 2]]), 3, axis=1), jnp.tile(jnp.arange(3), 2)[None]
    together = whole(params, tokens.reshape(1, 6), segments, positions, others=joined)
    close(together.reshape(apart.shape), apart)


def test_a_mesh_changes_nothing():
    params, _, reads, step = setup()
    tokens = random_tokens(ROWS, LENGTH)
    expected = decode_all(setup(), tokens, "left", others())
    mesh = parse_mesh("data:2,fsdp:2,tensor:2")
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, tree_shardings(params, mesh))
        host = jax.tree.map(np.asarray, (*padded(tokens, PROMPTS, "left", 0), others()))
        prompts, valid, looked = global_batch(host, mesh)
        logits, cache = reads(placed, prompts, valid, capacity=CAPACITY, others=looked)
        close(logits, expected[:, 0])
        following = np.array([tokens[row, length] for row, length in enumerate(PROMPTS)])
        close(step(placed, global_batch(following, mesh), cache=cache)[0], expected[:, 1])
        keys = cache.layers["block_0"].other_keys
    assert keys.sharding.shard_shape(keys.shape)[:2] == (ROWS // 4, CONFIG.heads // 2)


def test_rows_of_a_cache_are_taken_with_their_others():
    params, _, reads, step = setup()
    tokens, rows = random_tokens(ROWS, LENGTH), jnp.array([2, 0, 0, 3])
    _, cache = reads(params, *padded(tokens, PROMPTS, "right", 0), capacity=CAPACITY, others=others())
    found, _ = step(params, tokens[:, 7][rows], cache=take_rows(cache, rows))
    close(found, step(params, tokens[:, 7], cache=cache)[0][rows])
