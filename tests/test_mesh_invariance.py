"""Mesh, accumulation and scanning change how a step is computed, never what."""

import functools

import jax
import numpy as np
import pytest

from bert_jax.tasks import pretraining_loss
from core_jax.transformer import unstack_layers
from tests.same_training import assert_same
from tests.tiny_bert import change_layers, fresh_state, host_batch, model, run, set_up
from tests.tiny_training import MESHES

STEPS = 4
UNROLLED = [(mesh, accumulation, False) for mesh in MESHES for accumulation in (1, 4)]
SCANNED = [(mesh, accumulation, True) for mesh, accumulation in zip(MESHES, (1, 4, 1, 4), strict=True)]


@functools.cache
def trajectory(mesh, accumulation=1, scan_layers=False, dropout=0.0):
    """Metrics of each step; the last parameters and first moments, with unrolled layers."""
    state, metrics = run(set_up(mesh, accumulation=accumulation, scan_layers=scan_layers, dropout=dropout), STEPS)
    trees = jax.device_get((state.params, state.opt[1].mu))
    return metrics, *(change_layers(tree, unstack_layers) if scan_layers else tree for tree in trees)


@pytest.mark.parametrize(("mesh", "accumulation", "scan_layers"), [*UNROLLED[1:], *SCANNED])
def test_training_is_the_same_everywhere(mesh, accumulation, scan_layers):
    assert_same(trajectory(mesh, accumulation, scan_layers), trajectory(*UNROLLED[0]))


@pytest.mark.parametrize("mesh", MESHES[1:])
def test_dropout_is_the_same_on_every_mesh(mesh):
    expected = trajectory("data:1", scan_layers=True, dropout=0.1)
    assert_same(trajectory(mesh, scan_layers=True, dropout=0.1), expected)
    assert abs(expected[0][0]["loss"][0] - trajectory("data:1")[0][0]["loss"][0]) > 1e-3  # it does drop


def test_a_mean_of_means_would_be_another_loss():
    batch, parts = host_batch(0), 4
    loss = jax.jit(pretraining_loss(model(), train=True))
    pieces = [jax.tree.map(lambda rows, part=part: rows[part::parts], batch) for part in range(parts)]
    means = [float(loss(fresh_state().params, piece, jax.random.key(0))[0]) for piece in pieces]
    expected = trajectory("data:1")[0][0]["loss"][0]
    assert abs(np.mean(means) - expected) > 1e-3 * expected
