"""`--plan`: what a command would do on a TPU slice that is not here; nothing is trained or written."""

import dataclasses
import json
import math
import os
from typing import Any

import jax

from core_jax.optimizers import training_optimizer
from core_jax.plan import Plan, Planner, describe_plan, make_plan
from core_jax.plan_search import largest_that_fits
from core_jax.sharding import batch_parts, batch_sharding, check_mesh, parse_mesh, with_shardings
from core_jax.topologies import GIB, describe_devices, parse_topology
from core_jax.train import abstract_state
from core_jax.transformer import REMAT_POLICIES
from core_jax.workdir import write_atomically
from experiments.console import console, print_table, report, say
from experiments.families import Pretraining, family_of

DOES_NOT_FIT = 3  # exit code
SEARCH_COLUMNS = ("--remat", "rows a replica", "global batch", "peak a chip", "at most", "MFU, at most")


def run(config: Pretraining, workdir: str) -> int:
    """Compiles, prints, and writes plan.json; returns the exit code: 0 fits, 3 does not.

    Raises:
      UserError: no such slice, a mesh that does not divide, or no TPU compiler.
    """
    jax.config.update("jax_platforms", "cpu")  # whatever is here is not what is planned for
    training, family = config.training, family_of(config)
    plan, unit = plan_pretraining(config), family.wording.unit
    units = training.global_batch_size * family.units(config)
    title = f"{config.preset}, {units:,} {unit} in {training.global_batch_size:,} rows, on {plan.topology}"
    print_table(title, ("a step", "planned"), describe_plan(plan, units, training.steps, unit))
    found = search(config) if training.plan_search else []
    return keep(plan, workdir, {"search": found} if found else {})


def keep(plan: Plan, workdir: str, more: dict[str, Any]) -> int:
    """Writes plan.json, with more in it; returns the exit code."""
    os.makedirs(workdir, exist_ok=True)
    path = os.path.join(workdir, "plan.json")
    write_atomically(path, json.dumps(dataclasses.asdict(plan) | more, indent=2) + "\n")
    say(f"plan: {path}   compiled in {plan.compile_seconds:.0f} s")
    return 0 if plan.fits else DOES_NOT_FIT


def planner_for(slice_name: str, mesh: str) -> Planner:
    """Plans the calls of a command for a slice.

    Args:
      slice_name: such as v5e-4.
      mesh: its devices by axis.
    Raises:
      UserError: no such slice, a mesh that it does not divide into, or no TPU compiler.
    """
    jax.config.update("jax_platforms", "cpu")  # whatever is here is not what is planned for
    topology = parse_topology(slice_name)
    return Planner(parse_mesh(mesh, describe_devices(topology)), topology)


def show_calls(planner: Planner) -> int:
    """Prints what was planned, a table for each call, in a pipe a line of JSON; returns the exit code."""
    for name, call in planner.calls.items():
        if console.is_terminal:
            title = f"{name}, {call.units:,} {call.unit} a step, on {planner.topology.name}"
            print_table(title, ("a step", "planned"), describe_plan(call.plan, call.units, 0, call.unit))
        else:
            line = {"call": name, "units": call.units, "unit": call.unit} | dataclasses.asdict(call.plan)
            report(json.dumps(line))
    return 0 if planner.fits else DOES_NOT_FIT


def search(config: Pretraining) -> list[dict[str, Any]]:
    """Finds the largest batch for every --remat and prints them beside each other; the fastest comes first."""
    family = family_of(config)
    rate_name = f"{family.wording.unit}_per_second_bound"
    mesh = parse_mesh(config.training.mesh, describe_devices(parse_topology(config.training.plan)))
    rows_at_once = batch_parts(mesh) * config.training.accumulation_steps

    def changed(remat: Any, rows: int) -> Pretraining:
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
        rate = batch * family.units(config) / seconds
        found.append(
            {"remat": remat, "rows": largest.rows or 0, "global_batch_size": batch, rate_name: rate}
            | {name: getattr(largest.plan, name) for name in ("peak_bytes", "step_seconds_bound", "mfu_bound")}
        )
    found.sort(key=lambda one: one[rate_name], reverse=True)
    rows = [describe_largest(one, family.wording.unit) for one in found]
    print_table("the largest batches that fit", SEARCH_COLUMNS, rows)
    return found


def describe_largest(found: dict[str, Any], unit: str = "tokens") -> tuple[str, ...]:
    """One line of the table of `search`."""
    if not found["rows"]:
        return (found["remat"], "0", "not one row fits", "", "", "")
    return (
        found["remat"],
        f"{found['rows']}",
        f"{found['global_batch_size']:,}",
        f"{found['peak_bytes'] / GIB:.2f} GiB",
        f"{found[f'{unit}_per_second_bound']:,.0f} {unit} a second",
        f"{100 * found['mfu_bound']:.1f} %",
    )


def plan_pretraining(config: Pretraining) -> Plan:
    """Compiles the step of a run for the slice that `--plan` names."""
    topology, training, family = parse_topology(config.training.plan), config.training, family_of(config)
    mesh = parse_mesh(training.mesh, describe_devices(topology))
    model = family.model_ahead(config)
    optimizer = training_optimizer(config.optimizer, training)
    state = abstract_state(family.initial_params(model), optimizer)
    check_mesh(mesh, state, training.global_batch_size, training.accumulation_steps)
    state = with_shardings(state, mesh)
    rows, shapes = batch_sharding(mesh), family.batch_shapes(config)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), shapes)
    step = family.training_step(config, model, optimizer, state)
    return make_plan(step, (state, batch), family.model_flops(model, shapes), mesh, topology)
