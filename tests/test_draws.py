"""Draws of many examples at once are those of each example's own generator."""

import numpy as np
import pytest

from core_jax.draws import first_uniforms, generator


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (5, 3), (2**31 - 1, 10**6)])
@pytest.mark.parametrize("count", [1, 4, 7, 9])
def test_first_uniforms_are_those_of_the_generators(seed, epoch, count):
    indices = np.array([0, 1, 2, 77, 2**31, 2**40 + 1])
    expected = [generator(seed, epoch, index).random(count) for index in indices.tolist()]
    np.testing.assert_array_equal(first_uniforms(seed, epoch, indices, count), expected)
