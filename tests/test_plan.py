"""Plans: names of slices, operations counted by hand, and the real compiler for TPU."""

import importlib.util
import json
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from bert_jax import tasks
from bert_jax.config import PRESETS
from bert_jax.family import BertFamily
from bert_jax.tasks import training_step
from core_jax.attention import attend_joint
from core_jax.errors import UserError
from core_jax.flops import count_flops
from core_jax.topologies import CHIPS, parse_topology, slice_names
from experiments import planning, pretrain
from experiments.console import parse_preset
from tests import tiny_run
from tests.tiny_bert import CONFIG, host_batch, model


@pytest.mark.parametrize(
    ("text", "name", "chips"),
    [
        ("v5e-256", "v5e:16x16", 256),
        ("v5e-8", "v5e:2x4", 8),
        ("v4-32", "v4:2x2x4", 16),  # 32 cores
        ("v5p-128", "v5p:4x4x4", 64),
        ("v6e-64", "v6e:8x8", 64),
        ("v5e:16x16", "v5e:16x16", 256),
        ("v5p:4x4x12", "v5p:4x4x12", 192),
    ],
)
def test_slices_by_the_names_that_users_write(text, name, chips):
    topology = parse_topology(text)
    assert (topology.name, topology.chips) == (name, chips)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5e-100", "no such slice; there are v5e-1, v5e-4, v5e-8"),
        ("v4-2", "there are v4-8"),
        ("v9-8", "there are v4, v5e, v5p, v6e"),
        ("v5e", "expected a TPU slice such as"),
        ("v5e:3x5", "the usual ones are v5e:1x1"),
        ("v5e:4x4x4", "the usual ones are"),
        ("v5e:32x32", "the usual ones are"),
    ],
)
def test_impossible_slices_list_the_possible_ones(text, message):
    with pytest.raises(UserError, match=message):
        parse_topology(text)


def test_every_usual_slice_is_read_back_and_fills_its_shape():
    for generation, chip in CHIPS.items():
        for name, topology in slice_names(generation).items():
            assert parse_topology(name) == parse_topology(topology.name) == topology
            assert len(topology.shape) == chip.dimensions
            assert int(name.split("-")[1]) == topology.chips * (2 if chip.numbers_count_cores else 1)


def test_flops_of_loops_and_remat():
    x = jnp.zeros((8, 16))

    def scanned(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=7)[0]

    once = 2 * 8 * 16 * 16
    w = jnp.zeros((16, 16))
    assert count_flops(scanned, x, w) == 7 * once
    # Backward two products for each; with remat the forward one again.
    gradient = jax.grad(lambda w: jnp.sum(scanned(x, w)))
    assert count_flops(gradient, w) == 3 * 7 * once
    remat = jax.grad(lambda w: jnp.sum(jax.checkpoint(lambda w: jnp.tanh(jnp.tanh(x @ w) @ w))(w)))
    assert count_flops(remat, w) >= 3 * 2 * once + once


def test_flops_of_the_kernel_of_attention():
    """Two products forward, five backward, each over the rows filled up to 128 positions."""
    joint = jnp.zeros((3, 100, 4, 3 * 32))
    forward = 2 * 2 * 3 * 128 * 128 * 4 * 32
    assert count_flops(lambda x: attend_joint(x, None), joint) == forward
    assert count_flops(jax.grad(lambda x: jnp.sum(attend_joint(x, None))), joint) == forward * (1 + 2.5)


def test_flops_of_bert_by_hand():
    """A token costs 2 operations for each weight of the encoder and 4 T D for attention; heads only where computed."""
    batch, config = host_batch(0), CONFIG
    rows, length = batch["tokens"].shape
    predictions, width = batch["mlm_positions"].shape[1], config.width
    layer = 4 * width**2 + 2 * width * config.mlp_width
    encoder = 2 * rows * length * config.depth * (layer + 2 * length * width)
    heads = 2 * rows * (predictions * (width**2 + width * config.vocab_size) + width**2 + 2 * width)
    assert BertFamily().model_flops(model(), batch) == 3 * (encoder + heads)


FLAGS = ("--width=128", "--depth=2", "--heads=2", "--mlp_width=256", "--vocab_size=512", "--global_batch_size=16")


def test_without_the_compiler_the_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[tpu\]'"):
        pretrain.main(["bert-tiny", "--plan=v5e-4", f"--workdir={tmp_path}"])


def plan(tmp_path, capsys, *flags):
    code = pretrain.main(["bert-tiny", *FLAGS, f"--workdir={tmp_path}", *flags])
    return code, json.loads((tmp_path / "plan.json").read_text()), capsys.readouterr().out


@pytest.mark.slow
def test_a_plan_by_the_real_compiler(tmp_path, capsys):
    code, found, printed = plan(tmp_path, capsys, "--plan=v5e-4", "--mesh=data:2,fsdp:2")
    assert code == 0
    assert found["fits"]
    assert "bound by" in printed
    assert found["chips"] == 4
    assert 0 < found["arguments_bytes"] < found["peak_bytes"] < found["hbm_limit_bytes"]
    assert set(found["collectives"]) >= {"all-reduce", "all-gather"}
    assert found["mfu_bound"] == pytest.approx(found["model_flops"] / 197e12 / found["step_seconds_bound"])
    scanned = plan(tmp_path, capsys, "--plan=v5e-4", "--mesh=data:2,fsdp:2", "--scan_layers=True")[1]
    assert scanned["flops"] == found["flops"]
    # A loop also moves what it keeps into arrays over all layers and out of them. Turning once, it would move less.
    assert found["hbm_bytes_accessed"] < scanned["hbm_bytes_accessed"] < 2 * found["hbm_bytes_accessed"]
    again = plan(tmp_path, capsys, "--plan=v5e-4", "--mesh=data:2,fsdp:2", "--remat=full")[1]
    assert again["model_flops"] == found["model_flops"]
    assert again["flops"] > 1.1 * found["flops"]


@pytest.mark.slow
def test_what_does_not_fit_says_so_and_exits_with_3(tmp_path, capsys):
    code, found, printed = plan(
        tmp_path, capsys, "--plan=v5e-4", "--global_batch_size=65536", "--sequence_length=512", "--attention=reference"
    )
    assert (code, found["fits"]) == (planning.DOES_NOT_FIT, False)
    assert "no:" in printed


@pytest.mark.parametrize("packing", [False, True])
def test_a_plan_and_a_run_lower_the_same_step(monkeypatch, tmp_path, packing):
    """The text of what a run compiles on this CPU is that of a plan for a slice that consists of this CPU."""
    lowered = []

    def note(*arguments):
        step: Any = training_step(*arguments)

        def call(state, batch):
            lowered.append(step.lower(state, batch).as_text())
            return step(state, batch)

        return call

    arguments = tiny_run.flags(tmp_path / "run", tiny_run.write_text(tmp_path / "text"), steps=1, warmup_steps=1)
    arguments.append(f"--packing={packing}")
    with monkeypatch.context() as patch:
        patch.setattr(tasks, "training_step", note)
        assert pretrain.main(arguments) == 0
    monkeypatch.setattr(planning, "describe_devices", lambda topology: jax.devices()[: topology.chips])
    planned: list[Any] = []

    def capture(*arguments):
        planned.extend(arguments)
        raise InterruptedError

    monkeypatch.setattr(planning, "make_plan", capture)
    vocabulary = f"--tokenizer={tmp_path / 'run' / 'tokenizer'}"
    config = parse_preset([*arguments, vocabulary, "--plan=v5e-1"], PRESETS, "bert-tiny", "")
    with pytest.raises(InterruptedError):
        planning.plan_pretraining(config)
    step, shapes, _, mesh, _ = planned
    with jax.set_mesh(mesh):
        assert step.lower(*shapes).as_text() == lowered[0]
