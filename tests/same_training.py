"""What two ways of training must agree in."""

import functools

import jax
import numpy as np


def assert_same(found, expected):
    """Metrics of each step, last parameters and last first moments, up to rounding."""
    (metrics, params, moments), (expected_metrics, expected_params, expected_moments) = found, expected
    for ours, theirs in zip(metrics, expected_metrics, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, err_msg=name)
    # An element of a gradient is a sum over rows and positions whose terms cancel (for the keys' biases to exactly 0),
    # so its rounding error goes with the size of the terms: the floor is a part of the largest element.
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected_moments))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6 * largest)
    jax.tree.map(close, moments, expected_moments)
    # A step moves a parameter by at most 0.05 / epsilon = 5 times its moment.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=5e-6 * largest)
    jax.tree.map(close, params, expected_params)
