"""The moving average of parameters, by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from core_jax.optimizers import averaged_params, with_average

DECAY = 0.6


def test_the_average_by_hand():
    optimizer = with_average(optax.sgd(0.5), DECAY)
    params: Any = {"kernel": jnp.array([4.0, -1.0])}
    opt, update = optimizer.init(params), jax.jit(optimizer.update)
    np.testing.assert_array_equal(averaged_params(opt, params, DECAY)["kernel"], params["kernel"])
    by_hand = np.array([4.0, -1.0])
    for step in range(12):
        updates, opt = update({"kernel": jnp.array([1.0, step])}, opt, params)
        params = optax.apply_updates(params, updates)
        kept = min(DECAY, (1 + step) / (10 + step))  # less in the beginning
        by_hand = kept * by_hand + (1 - kept) * np.asarray(params["kernel"])
        np.testing.assert_allclose(averaged_params(opt, params, DECAY)["kernel"], by_hand, rtol=1e-5)
    assert np.abs(by_hand - np.asarray(params["kernel"])).max() > 0.1


def test_without_a_decay_nothing_changes():
    """The optimizer, and so the checkpoints of runs without an average, stay as they are."""
    optimizer, params = optax.sgd(0.5), {"kernel": jnp.ones(2)}
    assert with_average(optimizer, 0.0) is optimizer
    assert averaged_params(optimizer.init(params), params, 0.0) is params
