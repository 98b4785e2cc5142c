"""Plans: names of slices, operations counted by hand, loops in a program's text, and the real compiler for TPU."""

import importlib.util
import json
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from bert_jax.config import PRESETS
from bert_jax.tasks import training_step
from core_jax.attention import attend_joint
from core_jax.errors import UserError
from core_jax.flops import count_flops
from core_jax.hlo import group_size, shape_bytes
from core_jax.topologies import CHIPS, parse_topology, slice_names
from core_jax.traffic import Collective, read_traffic
from experiments import planning, pretrain
from experiments.console import parse_preset
from tests import tiny_run
from tests.tiny_bert import CONFIG, host_batch, model

PROGRAM = """HloModule jit_step

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p = (s32[], f32[8,4]) parameter(0)
  %x = f32[8,4]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %reduced = f32[8,4]{1,0:T(8,128)} all-reduce(%x), replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %t = (s32[], f32[8,4]) tuple(%x, %reduced)
}

%cond (p: (s32[], f32[8,4])) -> pred[] {
  %p = (s32[], f32[8,4]) parameter(0)
  ROOT %less = pred[] constant(true)
}

ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %x = f32[8,4]{1,0} parameter(0)
  %start = (s32[], f32[8,4]) tuple(%x)
  %loop = (s32[], f32[8,4]) while(%start), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %y = f32[8,4]{1,0} get-tuple-element(%loop), index=1
  ROOT %gathered = f32[16,4]{1,0} all-gather(%y), replica_groups={{0,1},{2,3}}, dimensions={0}
}
"""


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
    bert = model()
    params = jax.eval_shape(lambda key: planning.initial_params(bert)(key), jax.random.key(0))
    assert planning.model_flops(bert, params, batch) == 3 * (encoder + heads)


def test_loops_in_a_program_count_for_every_turn():
    traffic = read_traffic(PROGRAM)
    array = 8 * 4 * 4
    assert traffic.collectives == {
        "all-reduce": Collective(5, 5 * int(2 * array * 3 / 4)),
        "all-gather": Collective(1, array),
    }
    body, entry = 2 * array, array + 2 * array
    assert traffic.loop_factor == pytest.approx((5 * body + entry) / (body + entry), rel=0.1)


def test_what_two_places_call_counts_once_for_each():
    """Also where it calls something else itself."""
    call = "  %{0} = f32[8,4]{{1,0}} call(%x), to_apply=%{1}\n"
    reduced = "  ROOT %r = f32[8,4]{1,0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add\n"
    head, foot = "(x: f32[8,4]) -> f32[8,4] {\n  %x = f32[8,4]{1,0} parameter(0)\n", "}\n\n"
    text = f"%inner {head}{reduced}{foot}%outer {head}{call.format('a', 'inner')}{foot}"
    text += f"ENTRY %main {head}{call.format('a', 'outer')}{call.format('b', 'outer')}{foot}"
    assert read_traffic(text).collectives["all-reduce"].count == 2


def test_attributes_of_a_program():
    assert shape_bytes("(bf16[2,3]{1,0:T(8,128)(2,1)}, s32[], f32[0])") == 12 + 4
    assert group_size("replica_groups=[4,64]<=[256]") == 64
    assert group_size("replica_groups=mesh['axis_0'=8,'axis_1'=4] {'axis_1'}, use_global_device_ids=true") == 4
    assert group_size("replica_groups={{0,2,4},{1,3,5}}") == 3


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
    assert scanned["hbm_bytes_accessed"] == pytest.approx(found["hbm_bytes_accessed"], rel=0.35)
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

    monkeypatch.setattr(pretrain, "training_step", note)
    arguments = tiny_run.flags(tmp_path / "run", tiny_run.write_text(tmp_path / "text"), steps=1, warmup_steps=1)
    arguments.append(f"--packing={packing}")
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
