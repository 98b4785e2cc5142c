"""`attend`: both implementations against each other and against loops, who can see whom, dropout, and precision."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.attention import Implementation, attend

BATCH, HEADS, WIDTH = 2, 3, 5
CASES = {  # queries, keys, segments, causal
    "all": (7, 7, False, False),
    "more keys": (5, 9, False, False),
    "one": (1, 1, True, True),
    "segments": (7, 7, True, False),
    "segments and more queries": (9, 5, True, False),
    "causal": (7, 7, False, True),
    "causal segments": (7, 7, True, True),
}
IMPLEMENTATIONS: tuple[Implementation, ...] = ("reference", "xla")
over_cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
over_implementations = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def arguments(case, dtype=jnp.float32):
    """Query, key and value; and the options of `attend`."""
    queries, keys, segmented, causal = case
    shapes = ((BATCH, count, HEADS, WIDTH) for count in (queries, keys, keys))
    inputs = tuple(normal(seed, *shape).astype(dtype) for seed, shape in enumerate(shapes))
    options: dict = {"causal": causal}
    if segmented:
        # Interleaved; 0 is padding at the end. A segment number that a row lacks on one side is tested further down.
        pattern = jnp.array([[1, 2, 1, 2, 0, 1, 2, 0, 0], [3, 3, 1, 3, 1, 1, 0, 0, 0]])
        options |= {"query_segments": pattern[:, :queries], "key_segments": pattern[:, :keys]}
    return inputs, options


def may_see(case):
    """B T S: the rule, written with loops."""
    queries, keys, segmented, causal = case
    _, options = arguments(case)
    allowed = np.ones((BATCH, queries, keys), bool)
    for b, t, s in np.ndindex(allowed.shape):
        same = not segmented or options["query_segments"][b, t] == options["key_segments"][b, s]
        allowed[b, t, s] = same and (not causal or s <= t)
    return allowed


def by_loops(query, key, value, allowed):
    """Attention in float64, one query at a time."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    means = np.zeros(query.shape)
    for b, t, h in np.ndindex(query.shape[:3]):
        seen = np.flatnonzero(allowed[b, t])
        if seen.size:
            weights = np.exp(key[b, seen, h] @ query[b, t, h] / np.sqrt(query.shape[-1]))
            means[b, t, h] = weights @ value[b, seen, h] / weights.sum()
    return means


@over_cases
def test_both_implementations_and_loops_agree(case):
    (query, key, value), options = arguments(case)
    inputs, direction = (query, key, value), normal(9, *query.shape)
    found = []
    for implementation in IMPLEMENTATIONS:

        def product(*inputs, implementation: Implementation = implementation):
            means = attend(*inputs, **options, implementation=implementation)
            return jnp.sum(means * direction), means

        found.append(jax.jit(jax.grad(product, argnums=(0, 1, 2), has_aux=True))(*inputs))
    (gradients, means), (xla_gradients, xla_means) = found
    np.testing.assert_allclose(means, by_loops(query, key, value, may_see(case)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(xla_means, means, rtol=1e-5, atol=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), xla_gradients, gradients)


@over_cases
@over_implementations
def test_what_is_invisible_has_no_influence_and_the_rest_has(case, implementation):
    inputs, options = arguments(case)
    direction = normal(9, HEADS, WIDTH)[None, None]

    def products(*inputs):
        return jnp.sum(attend(*inputs, **options, implementation=implementation) * direction, axis=(2, 3))

    jacobians = jax.jit(jax.jacrev(products, argnums=(0, 1, 2)))(*inputs)
    allowed = may_see(case)
    own = np.broadcast_to(np.eye(allowed.shape[1], dtype=bool), (BATCH, *[allowed.shape[1]] * 2))
    chooses = allowed.sum(-1, keepdims=True) > 1  # whoever sees but one key sees it whatever the logits are
    rows = np.eye(BATCH, dtype=bool)[:, None, :, None]
    for jacobian, visible, certain in zip(jacobians, (own, allowed, allowed), (chooses, chooses, True), strict=True):
        influence = np.abs(jacobian).max((-2, -1)) > 0  # B T B' S: exactly 0 or not
        assert not np.any(influence & ~(visible[:, :, None] & rows))
        assert np.all(influence | ~((visible & certain)[:, :, None] & rows))


@over_implementations
def test_a_query_that_sees_nothing_gets_zeros_and_finite_gradients(implementation):
    inputs, _ = arguments((4, 4, False, False))
    query_segments, key_segments = jnp.array([[1, 2, 1, 2]] * BATCH), jnp.array([[1, 1, 0, 0]] * BATCH)

    def total(*inputs):
        segments = {"query_segments": query_segments, "key_segments": key_segments}
        means = attend(*inputs, **segments, implementation=implementation)
        return jnp.sum(means**2), means

    gradients, means = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(*inputs)
    blind = np.array([False, True, False, True])
    assert np.all(means[:, blind] == 0)
    assert np.all(means[:, ~blind] != 0)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert np.all(gradients[0][:, blind] == 0)


def weights_after_dropout(rate, key, implementation: Implementation = "reference"):
    """Values are unit vectors, so that the means are the attention weights themselves: T queries, S = K keys."""
    query, key_vectors = normal(0, 1, 40, 1, 30), normal(1, 1, 30, 1, 30)
    value = jnp.eye(30)[None, :, None]
    return attend(query, key_vectors, value, dropout_rate=rate, dropout_key=key, implementation=implementation)[0, :, 0]


def test_dropout_drops_single_weights_and_keeps_the_mean():
    plain = weights_after_dropout(0.0, None)
    keys, rate = jax.random.split(jax.random.key(0), 200), 0.3
    samples = jax.jit(jax.vmap(lambda key: weights_after_dropout(rate, key)))(keys)
    dropped = samples == 0
    np.testing.assert_allclose(samples, np.where(dropped, 0, plain[None] / (1 - rate)), rtol=1e-6)
    # Shares lie within five standard errors: over everything, and of each single weight.
    assert abs(np.mean(dropped) - rate) < 5 * np.sqrt(rate * (1 - rate) / dropped.size)
    assert np.abs(np.mean(dropped, axis=0) - rate).max() < 5 * np.sqrt(rate * (1 - rate) / len(keys))
    assert np.mean(np.abs(np.mean(samples, axis=0) / plain - 1)) < 0.05


def test_dropout_needs_a_rate_and_a_key():
    plain, key = weights_after_dropout(0.0, None), jax.random.key(0)
    for rate, given in ((0.0, key), (0.5, None)):
        np.testing.assert_array_equal(weights_after_dropout(rate, given), plain)
        np.testing.assert_allclose(weights_after_dropout(rate, given, "xla"), plain, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(weights_after_dropout(0.5, key), weights_after_dropout(0.5, key))
    assert np.any(weights_after_dropout(0.5, key) != weights_after_dropout(0.5, jax.random.key(1)))


def test_only_the_reference_drops_and_auto_picks_it():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="xla"):
        weights_after_dropout(0.5, key, "xla")
    np.testing.assert_array_equal(weights_after_dropout(0.5, key, "auto"), weights_after_dropout(0.5, key))
    np.testing.assert_array_equal(weights_after_dropout(0.0, key, "auto"), weights_after_dropout(0.0, key, "xla"))


def test_mismatched_arguments_are_refused():
    (query, key, value), options = arguments((5, 7, True, False))
    # Users run without the tests' shape checks, which would be faster than our own.
    unchecked = inspect.unwrap(attend)
    with pytest.raises(ValueError, match="7 keys but 6 values"):
        unchecked(query, key, value[:, :-1])
    for name in ("query_segments", "key_segments"):
        with pytest.raises(ValueError, match="both or neither"):
            attend(query, key, value, **{name: options[name]})


@over_implementations
def test_bfloat16_stays_close_to_float32(implementation):
    case = CASES["causal segments"]
    (query, key, value), options = arguments(case, jnp.bfloat16)
    means = jax.jit(functools.partial(attend, **options, implementation=implementation))(query, key, value)
    assert means.dtype == jnp.bfloat16
    expected = by_loops(query, key, value, may_see(case))
    np.testing.assert_allclose(means.astype(jnp.float32), expected, rtol=2e-2, atol=2e-2)


@over_implementations
def test_logits_and_softmax_are_float32_when_inputs_are_bfloat16(implementation):
    # Logits of 256 and 256.5, over sqrt(2): bfloat16 cannot tell them apart, its numbers there are 2 apart.
    query = jnp.array([16.0, 1.0], jnp.bfloat16)[None, None, None]
    key = jnp.array([[16.0, 0.0], [16.0, 0.5]], jnp.bfloat16)[None, :, None]
    value = jnp.eye(2, dtype=jnp.bfloat16)[None, :, None]
    weights = jax.jit(functools.partial(attend, implementation=implementation))(query, key, value)[0, 0, 0]
    second = 1 / (1 + np.exp(-0.5 / np.sqrt(2)))
    np.testing.assert_allclose(weights.astype(jnp.float32), [1 - second, second], rtol=2**-8)
