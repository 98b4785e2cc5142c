"""`--plan`: what a pretraining run would do on a TPU slice that is not here; nothing is trained."""

import dataclasses
import json
import math
import os
from typing import Any

import jax
from jaxtyping import PyTree

from bert_jax.config import BertPretraining
from bert_jax.model import BertForPretraining
from bert_jax.pretraining import batch_shapes, given_tokenizer, resolve_model
from bert_jax.tasks import initial_params, pretraining_loss, training_step
from core_jax.flops import count_flops
from core_jax.optimizers import make_optimizer
from core_jax.plan import Plan, describe_plan, make_plan
from core_jax.plan_search import largest_that_fits
from core_jax.sharding import BATCH_AXES, batch_sharding, check_mesh, parse_mesh, with_shardings
from core_jax.topologies import GIB, describe_devices, parse_topology
from core_jax.train import abstract_state
from core_jax.transformer import REMAT_POLICIES
from core_jax.workdir import write_atomically
from experiments.console import print_table, say

DOES_NOT_FIT = 3  # exit code
SEARCH_COLUMNS = (
    "--remat",
    "rows a replica",
    "global batch",
    "peak a chip",
    "tokens a second, at most",
    "MFU, at most",
)


def run(config: BertPretraining, workdir: str) -> int:
    """Compiles, prints, and writes plan.json; returns the exit code: 0 fits, 3 does not.

    Raises:
      UserError: no such slice, a mesh that does not divide, or no TPU compiler.
    """
    jax.config.update("jax_platforms", "cpu")  # whatever is here is not what is planned for
    training, length = config.training, config.text.sequence_length
    plan = plan_pretraining(config)
    tokens = training.global_batch_size * length
    title = f"{config.preset}, {training.global_batch_size} x {length}, on {plan.topology}"
    print_table(title, ("a step", "planned"), describe_plan(plan, tokens, training.steps))
    found = search(config) if training.plan_search else []
    os.makedirs(workdir, exist_ok=True)
    path = os.path.join(workdir, "plan.json")
    content = dataclasses.asdict(plan) | ({"search": found} if found else {})
    write_atomically(path, json.dumps(content, indent=2) + "\n")
    say(f"plan: {path}   compiled in {plan.compile_seconds:.0f} s")
    return 0 if plan.fits else DOES_NOT_FIT


def search(config: BertPretraining) -> list[dict[str, Any]]:
    """Finds the largest batch for every --remat and prints them beside each other; most tokens a second come first."""
    mesh = parse_mesh(config.training.mesh, describe_devices(parse_topology(config.training.plan)))
    rows_at_once = math.prod(mesh.shape[axis] for axis in BATCH_AXES) * config.training.accumulation_steps

    def changed(remat: Any, rows: int) -> BertPretraining:
        training = dataclasses.replace(config.training, global_batch_size=rows * rows_at_once)
        return dataclasses.replace(config, model=dataclasses.replace(config.model, remat=remat), training=training)

    found = []
    for remat in ("none", *REMAT_POLICIES):

        def plan_rows(rows: int, remat: str = remat) -> Plan:
            plan = plan_pretraining(changed(remat, rows))
            say(f"--remat={remat}, {rows} rows a replica: {'fits' if plan.fits else 'does not fit'}")
            return plan

        largest = largest_that_fits(plan_rows, max(config.training.global_batch_size // rows_at_once, 1))
        batch = (largest.rows or 0) * rows_at_once
        seconds = largest.plan.step_seconds_bound or math.inf
        rate = batch * config.text.sequence_length / seconds
        found.append(
            {"remat": remat, "rows": largest.rows or 0, "global_batch_size": batch, "tokens_per_second_bound": rate}
            | {name: getattr(largest.plan, name) for name in ("peak_bytes", "step_seconds_bound", "mfu_bound")}
        )
    found.sort(key=lambda one: one["tokens_per_second_bound"], reverse=True)
    print_table("the largest batches that fit", SEARCH_COLUMNS, [describe_largest(one) for one in found])
    return found


def describe_largest(found: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table of `search`."""
    if not found["rows"]:
        return (found["remat"], "0", "not one row fits", "", "", "")
    return (
        found["remat"],
        f"{found['rows']}",
        f"{found['global_batch_size']:,}",
        f"{found['peak_bytes'] / GIB:.2f} GiB",
        f"{found['tokens_per_second_bound']:,.0f}",
        f"{100 * found['mfu_bound']:.1f} %",
    )


def plan_pretraining(config: BertPretraining) -> Plan:
    """Compiles the step of a run for the slice that `--plan` names."""
    topology, training = parse_topology(config.training.plan), config.training
    mesh = parse_mesh(training.mesh, describe_devices(topology))
    model = BertForPretraining(config.model)
    tokenizer = given_tokenizer(config)
    if tokenizer:
        model = resolve_model(config.model, tokenizer)
    optimizer = make_optimizer(config.optimizer, training.steps)
    state = abstract_state(initial_params(model), optimizer)
    check_mesh(mesh, state, training.global_batch_size, training.accumulation_steps)
    state = with_shardings(state, mesh)
    rows = batch_sharding(mesh)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), batch_shapes(config))
    step = training_step(model, optimizer, state, training.accumulation_steps)
    needed = float(model_flops(model, state.params, batch))
    return make_plan(step, (state, batch), needed, mesh, topology)


def model_flops(model: BertForPretraining, params: PyTree, batch: PyTree) -> int:
    """Operations that one step of the model needs, over all chips: three times those of its forward pass.

    Counted on plain attention, since what a kernel computes again is not needed. It is what `useful_flops` gives for
    rows that are full of one segment each: a plan knows of no text.
    """
    plain = BertForPretraining(dataclasses.replace(model.config, attention="reference", remat="none"))
    return 3 * count_flops(pretraining_loss(plain, train=True), params, batch, jax.random.key(0))
