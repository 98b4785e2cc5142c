"""LoRA as a transformation of gradients is LoRA as its paper writes it, and leaves everything else alone."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bert_jax.tasks import initial_params, pretraining_loss
from core_jax.checkpoints import Checkpoints
from core_jax.config import OptimizerConfig
from core_jax.errors import UserError
from core_jax.lora import lora_targets, product, trained_sizes
from core_jax.optimizers import make_optimizer
from core_jax.sharding import by_path, global_batch, nested, parse_mesh, tree_shardings, with_shardings
from core_jax.train import State, abstract_state, compile_step, create_state, make_step
from tests.tiny_bert import host_batch, model

CONFIG = OptimizerConfig(learning_rate=0.05, warmup_steps=1, lora_rank=2, lora_whole="next_sentence", weight_decay=0.1)
STEPS = 5


def drawn(like, seed):
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(random.standard_normal(leaf.shape), jnp.float32), like)


def bert(scan_layers=False):
    net = model(scan_layers=scan_layers)
    return net, initial_params(net)(jax.random.key(0))


@pytest.mark.parametrize("scan_layers", [False, True])
def test_it_is_the_product_of_two_trained_matrices(scan_layers):
    _, params = bert(scan_layers)
    slopes, plain = drawn(params, 1), dataclasses.replace(CONFIG, lora_rank=0)
    optimizer, scale = make_optimizer(CONFIG, STEPS), CONFIG.lora_alpha / CONFIG.lora_rank
    state: Any = optimizer.init(params)

    def loss(params):  # not linear, so that gradients change with the parameters
        return sum(jax.tree.leaves(jax.tree.map(lambda leaf, slope: jnp.sum(jnp.sin(leaf * slope)), params, slopes)))

    def written_out(trained):
        leaves = by_path(params)
        added = {name: scale * product(pair).reshape(leaves[name].shape) for name, pair in trained["factors"].items()}
        return nested(leaves | trained["whole"] | {name: leaves[name] + change for name, change in added.items()})

    trained = {
        "factors": state.factors,
        "whole": {name: leaf for name, leaf in by_path(params).items() if "next_sentence" in name},
    }
    reference = make_optimizer(plain, STEPS)
    memory, found = reference.init(trained), params
    for _ in range(STEPS):
        updates, state = jax.jit(optimizer.update)(jax.grad(loss)(found), state, found)
        found = optax.apply_updates(found, updates)
        changes, memory = reference.update(jax.grad(lambda t: loss(written_out(t)))(trained), memory, trained)
        trained = optax.apply_updates(trained, changes)
    expected, before = by_path(written_out(trained)), by_path(params)
    for name, leaf in by_path(found).items():
        np.testing.assert_allclose(leaf, expected[name], rtol=2e-5, atol=2e-5, err_msg=name)
        is_trained = name in state.factors or "next_sentence" in name
        assert bool(jnp.any(leaf != before[name])) == is_trained, name


def test_it_remembers_little_and_is_small():
    _, params = bert()
    state: Any = make_optimizer(CONFIG, STEPS).init(params)
    thin, whole = trained_sizes(params, CONFIG)
    assert sum(pair.lora_down.size + pair.lora_up.size for pair in state.factors.values()) == thin
    # The matrices, two moments of Adam of all that is trained, and a few counters.
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) - (3 * thin + 2 * whole) < 5
    assert all("attention/" in name for name in lora_targets(params, CONFIG))


def test_training_is_the_same_on_a_mesh():
    def train(mesh_text):
        net, params = bert()
        optimizer, mesh = make_optimizer(CONFIG, STEPS), parse_mesh(mesh_text)
        shardings = tree_shardings(abstract_state(initial_params(net), optimizer), mesh)
        state = State(jnp.zeros((), jnp.int32), params, optimizer.init(params), jax.random.key(1))
        with jax.set_mesh(mesh):
            step = compile_step(make_step(pretraining_loss(net, train=True), optimizer), shardings)
            state, batch = jax.device_put(state, shardings), global_batch(host_batch(0), mesh)
            for _ in range(3):
                state, _ = step(state, batch)
        return jax.tree.map(np.asarray, state.params)

    alone, together = train("data:1"), train("data:2,fsdp:2,tensor:2")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), together, alone)


def test_a_checkpoint_keeps_it_to_the_bit(tmp_path):
    net, _ = bert()
    optimizer, mesh, messages = make_optimizer(CONFIG, STEPS), parse_mesh("data:2,fsdp:2,tensor:2"), []
    init = initial_params(net)
    state = create_state(init, optimizer, mesh, seed=3)
    checkpoints = Checkpoints(str(tmp_path / "checkpoints"), keep=1, identity={}, report=messages.append)
    checkpoints.save(4, state)
    checkpoints.wait()
    restored = checkpoints.restore_newest(with_shardings(abstract_state(init, optimizer), mesh))
    assert restored is not None
    assert not messages
    jax.tree.map(np.testing.assert_array_equal, restored.opt, state.opt)


def test_what_cannot_be_meant_is_refused():
    _, params = bert()
    with pytest.raises(UserError, match="--lora_targets=nowhere matches no kernel; there are"):
        make_optimizer(dataclasses.replace(CONFIG, lora_targets="nowhere"), STEPS).init(params)
    with pytest.raises(UserError, match="is no linear layer"):
        make_optimizer(CONFIG, STEPS).init({"attention": {"query": {"kernel": jnp.zeros((2, 3, 4, 5))}}})
    with pytest.raises(UserError, match="--lora_rank=-1"):
        OptimizerConfig(lora_rank=-1)
    with pytest.raises(UserError, match=r"--lora_whole=\(: not a regular expression"):
        OptimizerConfig(lora_whole="(")
