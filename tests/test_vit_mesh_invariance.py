"""Mesh, accumulation and scanning change how a ViT is trained, never what; mixing of images included."""

import functools

import jax
import pytest

from core_jax.transformer import unstack_layers
from tests.same_training import assert_same
from tests.tiny_vit import PLAIN, change_layers, run, set_up
from vit_jax.supervision import SupervisionConfig

STEPS = 4
MIXED = SupervisionConfig(label_smoothing=0.1, mixup=0.8, cutmix=1.0)


@functools.cache
def trajectory(mesh, accumulation=1, scan_layers=False, stochastic_depth=0.0, supervision=MIXED):
    """Metrics of each step; the last parameters and first moments, with unrolled layers."""
    changes = {"scan_layers": scan_layers, "stochastic_depth": stochastic_depth, "supervision": supervision}
    state, metrics = run(set_up(mesh, accumulation=accumulation, **changes), STEPS)
    trees = jax.device_get((state.params, state.opt[1].mu))
    return metrics, *(change_layers(tree, unstack_layers) if scan_layers else tree for tree in trees)


@pytest.mark.parametrize(
    ("mesh", "accumulation", "scan_layers"),
    [
        pytest.param("data:2,tensor:2,fsdp:2", 1, False, marks=pytest.mark.slow),
        ("data:8", 4, False),
        pytest.param("data:1", 4, False, marks=pytest.mark.slow),
        pytest.param("data:2,fsdp:4", 1, True, marks=pytest.mark.slow),
        pytest.param("data:2,tensor:2,fsdp:2", 4, True, marks=pytest.mark.slow),
    ],
)
def test_training_on_mixed_images_is_the_same_everywhere(mesh, accumulation, scan_layers):
    assert_same(trajectory(mesh, accumulation, scan_layers), trajectory("data:1"))


@pytest.mark.slow
def test_images_are_mixed():
    mixed, plain = (trajectory("data:1", supervision=which)[0] for which in (MIXED, PLAIN))
    differences = [abs(one["loss"][0] - other["loss"][0]) for one, other in zip(mixed, plain, strict=True)]
    assert max(differences) > 1e-2


@pytest.mark.slow
def test_stochastic_depth_is_the_same_on_every_mesh():
    expected = trajectory("data:1", scan_layers=True, stochastic_depth=0.5)
    assert_same(trajectory("data:2,tensor:2,fsdp:2", scan_layers=True, stochastic_depth=0.5), expected)
    assert abs(expected[0][0]["loss"][0] - trajectory("data:1")[0][0]["loss"][0]) > 1e-3  # it does drop
