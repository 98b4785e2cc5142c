"""The exact GELU of CPUs: value and derivative are those of the definition."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.gelu import exact_gelu
from core_jax.layers import gelu
from tests.tiny_bert import CONFIG

POINTS = np.concatenate([np.linspace(-8, 8, 1001), [0.0, -40.0, 40.0, -1e30, 1e30]])


@pytest.mark.parametrize(("dtype", "error"), [("float32", 3e-7), ("bfloat16", 2.0**-8)])
def test_value_and_derivative(dtype, error):
    x = jnp.asarray(POINTS, dtype)
    value, pull_back = jax.vjp(jax.jit(exact_gelu), x)
    [derivative] = pull_back(jnp.ones_like(x))
    assert value.dtype == derivative.dtype == x.dtype
    exact = np.asarray(x, np.float64)
    below = np.asarray([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in exact])
    density = np.exp(-0.5 * np.minimum(exact**2, 1e4)) / math.sqrt(2 * math.pi)
    np.testing.assert_allclose(np.asarray(value, np.float64), exact * below, rtol=error, atol=5 * error)
    np.testing.assert_allclose(np.asarray(derivative, np.float64), below + exact * density, rtol=error, atol=5 * error)


def test_the_model_takes_it_and_keeps_its_input_alone():
    config, x = dataclasses.replace(CONFIG, gelu="erf"), jnp.ones((4, 8))
    kept = jax.tree.leaves(jax.vjp(lambda x: gelu(config, x), x)[1])
    assert [leaf.shape for leaf in kept if leaf.ndim] == [x.shape]
