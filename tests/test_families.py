"""Every preset at its full size, as far as that needs no memory."""

import dataclasses

import jax
import pytest

from core_jax.optimizers import training_optimizer
from core_jax.sharding import parse_mesh, with_shardings
from core_jax.train import abstract_state
from experiments.families import PRESETS, family_of

ALWAYS = ("bert-base", "vit-b16-mae", "vit-r26-s32")  # one of each kind in the default run
EACH = [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in PRESETS]


@pytest.mark.parametrize("preset", EACH)
def test_the_step_of_every_preset_can_be_traced(preset):
    config = PRESETS[preset]
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, scan_layers=True))  # traced sooner
    family = family_of(config)
    model, optimizer = family.model_ahead(config), training_optimizer(config.optimizer, config.training)
    mesh = parse_mesh("data:1", devices=jax.devices()[:1])
    state = with_shardings(abstract_state(family.initial_params(model), optimizer), mesh)
    batch = family.batch_shapes(config)
    with jax.set_mesh(mesh):
        after, metrics = jax.eval_shape(family.training_step(config, model, optimizer, state), state, batch)
    assert jax.tree.map(lambda leaf: leaf.shape, after) == jax.tree.map(lambda leaf: leaf.shape, state)
    assert metrics["useful_flops"]
    assert family.model_flops(model, batch) > 0
