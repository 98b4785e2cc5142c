"""What two ways of training must agree in."""

import functools

import jax
import numpy as np

from core_jax.sharding import batch_sharding, parse_mesh, tree_shardings

MESHES = ("data:8", "data:2,fsdp:2,tensor:2")


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


def assert_same_on_meshes(loss, params, batch, meshes=MESHES, rounding=2e-5):
    """Loss and gradients, with parameters and rows in parts on each mesh, beside those of one device.

    Args:
      loss: (params, batch, key) -> (loss, metrics), which draws the same on any mesh.
      params, batch: on the host.
      meshes: as --mesh names them.
      rounding: relative to the largest element of each gradient, or to 1 where that is less.
    """

    def compute(place):
        mesh = parse_mesh(place)
        with jax.set_mesh(mesh):
            placed = jax.device_put(params, tree_shardings(params, mesh)), jax.device_put(batch, batch_sharding(mesh))
            return jax.jit(jax.value_and_grad(lambda p, b: loss(p, b, jax.random.key(0))[0]))(*placed)

    expected = compute("data:1")
    for place in meshes:
        for ours, theirs in zip(jax.tree.leaves(compute(place)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=rounding * max(1.0, float(np.abs(theirs).max())))
