import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.losses import cross_entropy, objective
from core_jax.metrics import accuracy, means

CLASSES = 7


def scores(*shape, seed=0, scale=5.0):
    random = np.random.default_rng(seed)
    logits = (random.normal(size=(*shape, CLASSES)) * scale).astype(np.float32)
    labels = random.integers(0, CLASSES, shape, dtype=np.int32)
    weights = (random.random(shape) * random.integers(0, 2, shape)).astype(np.float32)
    return logits, labels, weights


def losses_by_hand(logits, labels):
    logits = np.float64(logits)
    highest = logits.max(axis=-1, keepdims=True)
    log_sums = np.log(np.exp(logits - highest).sum(axis=-1)) + highest[..., 0]
    return log_sums - np.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]


@pytest.mark.parametrize("shape", [(50,), (4, 9), ()])
@pytest.mark.parametrize("scale", [5.0, 1e4])
def test_cross_entropy_and_accuracy(shape, scale):
    logits, labels, weights = scores(*shape, scale=scale)
    weights = weights + 0.5 if not shape else weights
    total, count = cross_entropy(*map(jnp.asarray, (logits, labels, weights)))
    np.testing.assert_allclose(total, (losses_by_hand(logits, labels) * weights).sum(), rtol=1e-5)
    np.testing.assert_allclose(count, np.float64(weights).sum(), rtol=1e-6)
    right, count = accuracy(*map(jnp.asarray, (logits, labels, weights)))
    np.testing.assert_allclose(right, ((logits.argmax(axis=-1) == labels) * weights).sum(), rtol=1e-6)
    np.testing.assert_allclose(count, np.float64(weights).sum(), rtol=1e-6)


def test_cross_entropy_of_bfloat16_is_computed_in_float32():
    logits, labels, weights = scores(50)
    coarse = jnp.asarray(logits, jnp.bfloat16)
    total, _ = cross_entropy(coarse, jnp.asarray(labels), jnp.asarray(weights))
    assert total.dtype == jnp.float32
    expected = (losses_by_hand(np.float32(coarse), labels) * weights).sum()
    np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_cross_entropy_gradient_is_softmax_minus_the_label():
    logits, labels, weights = scores(20)
    found = jax.grad(lambda x: cross_entropy(x, jnp.asarray(labels), jnp.asarray(weights))[0])(jnp.asarray(logits))
    powers = np.exp(np.float64(logits))
    expected = (powers / powers.sum(axis=-1, keepdims=True) - np.eye(CLASSES)[labels]) * weights[:, None]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def ratio(total, count):
    return jnp.float32(total), jnp.float32(count)


def test_objective_is_the_sum_of_means():
    assert float(objective({"mlm": ratio(6, 4), "nsp": ratio(3, 2)})) == 3.0
    assert float(objective({"mlm": ratio(0, 0), "nsp": ratio(3, 2)})) == 1.5


def test_parts_with_totals_add_up_to_the_whole():
    logits, labels, weights = scores(40)
    weights[:10] = 0  # one part weighs nothing
    arrays = [jnp.asarray(x) for x in (logits, labels, weights)]
    whole = float(objective({"a": cross_entropy(*arrays)}))
    totals = {"a": jnp.sum(arrays[2])}
    parts = [{"a": cross_entropy(*(x[start : start + 10] for x in arrays))} for start in range(0, 40, 10)]
    np.testing.assert_allclose(sum(float(objective(part, totals)) for part in parts), whole, rtol=1e-6)
    mean_of_means = sum(float(objective(part)) for part in parts) / 4
    assert abs(mean_of_means - whole) > 0.05 * whole


def test_objective_has_a_finite_gradient_where_nothing_counts():
    logits, labels, _ = scores(5)
    loss = lambda x: objective({"a": cross_entropy(x, jnp.asarray(labels), jnp.zeros(5))})  # noqa: E731
    np.testing.assert_array_equal(jax.grad(loss)(jnp.asarray(logits)), np.zeros((5, CLASSES)))


def test_means_over_ragged_batches_are_exact():
    logits, labels, weights = scores(60)
    batches = []
    for rows in np.split(np.arange(60), [1, 4, 33]):
        part = [jnp.asarray(x[rows]) for x in (logits, labels, weights)]
        batches.append({"loss": cross_entropy(*part), "accuracy": accuracy(*part)})
    found = means(batches)
    total = np.float64(weights).sum()
    assert found.keys() == {"loss", "accuracy"}
    assert found["loss"] == pytest.approx((losses_by_hand(logits, labels) * weights).sum() / total, rel=1e-6)
    assert found["accuracy"] == pytest.approx(((logits.argmax(-1) == labels) * weights).sum() / total, rel=1e-6)
    per_batch = [means([batch])["accuracy"] for batch in batches]
    assert abs(np.mean(per_batch) - found["accuracy"]) > 1e-3


def test_means_lose_nothing_over_many_batches():
    """In float32 the sum would stop at 2^24."""
    batches = [{"a": (np.float32(2**24), np.float32(2**24))}, *[{"a": (np.float32(1), np.float32(0))}] * 1000]
    assert means(batches)["a"] == (2**24 + 1000) / 2**24  # pyright: ignore[reportArgumentType]


def test_means_of_nothing_are_zero():
    assert means([{"a": ratio(0, 0)}]) == {"a": 0.0}
    assert means([]) == {}
