"""Dropout by a hash: how often it drops, that neighbours know nothing of each other, and what gradients see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from core_jax.dropout import drop_units, drop_weights, is_kept, part_seed
from core_jax.sharding import BATCH_AXES, constrain
from tests.tiny_training import mesh_of

RATE = 0.1
ERROR = np.sqrt(RATE * (1 - RATE))  # standard deviation of one draw


def dropped_units(rows=64, key=0):
    return np.asarray(drop_units(jnp.ones((rows, 32, 48)), jax.random.key(key), RATE)) == 0


def dropped_weights(rows=64, key=0):
    return np.asarray(drop_weights(jnp.ones((rows, 4, 24, 16)), jax.random.key(key), RATE)) == 0


@pytest.mark.parametrize("dropped", [dropped_units, dropped_weights])
def test_each_unit_is_dropped_as_often_as_it_should_be(dropped):
    seen = dropped(rows=400)
    assert abs(np.mean(seen) - RATE) < 5 * ERROR / np.sqrt(seen.size)
    assert np.abs(np.mean(seen, axis=0) - RATE).max() < 5 * ERROR / np.sqrt(len(seen))


@pytest.mark.parametrize("dropped", [dropped_units, dropped_weights])
def test_units_know_nothing_of_each_other(dropped):
    """Neighbours along every axis, units at a power of two apart, and the same units under another key."""
    seen = dropped()
    pairs = [(np.take(seen, range(1, n), axis), np.take(seen, range(n - 1), axis)) for axis, n in enumerate(seen.shape)]
    flat = seen.reshape(-1)
    pairs += [(flat[2**power :], flat[: -(2**power)]) for power in range(14)] + [(seen, dropped(key=1))]
    for one, other in pairs:
        both = np.mean(one & other)
        assert abs(both - RATE**2) < 5 * RATE / np.sqrt(one.size)


def test_parts_have_seeds_of_their_own():
    seeds = part_seed(jnp.uint32(7), jnp.arange(100_000, dtype=jnp.uint32))
    assert len(np.unique(np.asarray(seeds))) == 100_000
    assert not is_kept(jnp.arange(10), jnp.uint32(0), 0.9999).any()


def test_what_is_kept_is_scaled_and_gradients_pass_where_it_is():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 16)), jnp.float32)
    direction = jnp.asarray(np.random.default_rng(1).normal(size=x.shape), jnp.float32)
    out, pull = jax.vjp(lambda x: drop_units(x, jax.random.key(3), 0.3), x)
    kept = np.asarray(out) != 0
    assert 0 < kept.mean() < 1
    np.testing.assert_allclose(out, np.where(kept, x / 0.7, 0), rtol=1e-6)
    np.testing.assert_allclose(pull(direction)[0], np.where(kept, direction / 0.7, 0), rtol=1e-6)


def test_the_backward_pass_stores_no_mask():
    x = jnp.ones((4, 8, 16))
    _, pull = jax.vjp(lambda x: drop_units(x, jax.random.key(3), 0.3), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(pull)) == 1  # the seed


def test_bfloat16_stays_bfloat16_and_is_dropped_at_the_same_places():
    one, other = (drop_units(jnp.ones((2, 8), dtype), jax.random.key(0), 0.5) for dtype in (jnp.bfloat16, jnp.float32))
    assert one.dtype == jnp.bfloat16
    np.testing.assert_array_equal(one == 0, other == 0)


@pytest.mark.parametrize("mesh", ["data:8", "data:2,tensor:2,fsdp:2"])
def test_the_mask_is_the_same_on_every_mesh_and_moves_no_data(mesh):
    x, key = jnp.ones((8, 6, 4)), jax.random.key(0)
    drop = jax.jit(lambda x: drop_units(constrain(x, BATCH_AXES, None, "tensor"), key, 0.5))
    with jax.set_mesh(mesh_of(mesh)):
        spread = jax.device_put(x, jax.NamedSharding(mesh_of(mesh), P(BATCH_AXES, None, "tensor")))
        np.testing.assert_array_equal(drop(spread), drop_units(x, key, 0.5))
        text = drop.lower(spread).compile().as_text() or ""
    assert "multiply" in text
    assert not any(kind in text for kind in ("all-gather", "all-reduce", "collective-permute", "all-to-all"))
