"""What a step would do on a TPU slice that is not here: compiled by the real compiler, then added up."""

import dataclasses
import re
import time
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from core_jax.flops import count_operations
from core_jax.topologies import GIB, Topology
from core_jax.traffic import read_traffic

READING, WRITING = "reading", "each token more"  # the calls of a command that writes texts


@dataclasses.dataclass(frozen=True)
class Plan:
    """A step on one slice; bytes, operations and seconds are those of each chip."""

    topology: str
    chips: int
    fits: bool
    hbm_limit_bytes: int
    peak_bytes: int | None  # None where the compiler gave up before it knew
    arguments_bytes: int | None  # parameters, optimizer state and batch
    temporary_bytes: int | None  # activations, gradients and room to work
    flops: float  # of the matrix products that are computed, remat and kernels included
    model_flops: float  # of those that the model needs: no remat
    hbm_bytes_accessed: float | None
    collectives: dict[str, dict[str, int]]  # kind -> count and bytes sent, all within the slice (ICI)
    ici_bytes: int
    dcn_bytes: int  # between slices: a plan is of one slice
    compute_seconds: float
    memory_seconds: float | None
    network_seconds: float
    step_seconds_bound: float | None
    bound: str  # compute, memory or network
    mfu_bound: float | None
    compile_seconds: float
    message: str  # of the compiler, where the step does not fit


def make_plan(step: Any, arguments: tuple[PyTree, ...], model_flops: float, mesh: Mesh, topology: Topology) -> Plan:
    """Compiles a step for a slice and adds up what it does.

    Args:
      step: jitted, as the training loop runs it.
      arguments: shapes that know their shardings over `mesh`.
      model_flops: operations that the model needs for one step, over all chips.
      mesh: of the slice's devices.
      topology: the slice.
    Returns:
      The plan. The roofline takes compute, memory and network to overlap fully, so the step is at least as long.
    Source: Williams et al. 2009 (roofline), https://doi.org/10.1145/1498765.1498785; Chowdhery et al. 2022 (MFU),
      https://arxiv.org/abs/2204.02311, appendix B.
    """
    return _plan(step, arguments, model_flops, mesh, topology)[0]


@dataclasses.dataclass(frozen=True)
class PlannedCall:
    """One of several functions that a command calls."""

    plan: Plan
    units: int  # what a call computes, such as tokens
    unit: str


class Planner:
    """Plans the calls of a command one after the other: each may take what an earlier one gives."""

    def __init__(self, mesh: Mesh, topology: Topology):
        """Plans for the devices of `mesh`, a slice's."""
        self.mesh, self.topology = mesh, topology
        self.calls: dict[str, PlannedCall] = {}  # by the names that they were given
        self.fits = True

    def __call__(self, name: str, units: int, unit: str, function: Any, *arguments: Any) -> Any:
        """Plans a call.

        Args:
          name: to report it by.
          units, unit: what a call computes, such as 8 tokens.
          function: jitted.
          arguments: shapes that know their shardings, and static values.
        Returns:
          Shapes of what it gives, which know the shardings that the compiler chose; None where it does not fit.
        """
        plan, outputs = _plan(function, arguments, None, self.mesh, self.topology)
        self.calls[name] = PlannedCall(plan, units, unit)
        self.fits &= plan.fits
        return outputs

    def outputs(self, function: Any, *arguments: Any) -> Any:
        """Shapes of what a jitted function gives, one too small to be reported; None where it does not fit."""
        plan, outputs = _plan(function, arguments, None, self.mesh, self.topology)
        self.fits &= plan.fits
        return outputs


def _plan(step, arguments, model_flops, mesh, topology):
    """The plan, and shapes of what the step gives; a model needs what is computed where `model_flops` is None."""
    chip, start = topology.chip, time.perf_counter()
    with jax.set_mesh(mesh):
        traced = step.trace(*arguments)
        flops = count_operations(traced.jaxpr.jaxpr) / topology.chips
        compiled, message = _compile(traced)
    model_flops = flops * topology.chips if model_flops is None else model_flops
    plan = Plan(
        topology=topology.name,
        chips=topology.chips,
        fits=compiled is not None,
        hbm_limit_bytes=chip.hbm_bytes,
        peak_bytes=None,
        arguments_bytes=None,
        temporary_bytes=None,
        flops=flops,
        model_flops=model_flops / topology.chips,
        hbm_bytes_accessed=None,
        collectives={},
        ici_bytes=0,
        dcn_bytes=0,
        compute_seconds=flops / chip.flops,
        memory_seconds=None,
        network_seconds=0.0,
        step_seconds_bound=None,
        bound="memory",
        mfu_bound=None,
        compile_seconds=time.perf_counter() - start,
        message=message,
    )
    if compiled is None:
        return plan, None
    place = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)  # noqa: E731
    return _measure(plan, compiled, topology), jax.tree.map(place, traced.out_info, compiled.output_shardings)


def _compile(traced):
    try:
        return traced.lower().compile(), ""
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None, _first_sentence(str(error))


def _measure(plan: Plan, compiled: Any, topology: Topology) -> Plan:
    memory, chip, traffic = compiled.memory_analysis(), topology.chip, read_traffic(compiled.as_text())
    moved = float(compiled.cost_analysis()["bytes accessed"]) * traffic.loop_factor + traffic.kernel_bytes
    sent = sum(collective.bytes for collective in traffic.collectives.values())
    seconds = {"compute": plan.compute_seconds, "memory": moved / chip.hbm_rate, "network": sent / chip.ici_rate}
    bound = max(seconds, key=lambda name: seconds[name])
    return dataclasses.replace(
        plan,
        peak_bytes=int(memory.peak_memory_in_bytes),
        fits=memory.peak_memory_in_bytes <= chip.hbm_bytes,
        arguments_bytes=int(memory.argument_size_in_bytes),
        temporary_bytes=int(memory.temp_size_in_bytes),
        hbm_bytes_accessed=moved,
        collectives={kind: dataclasses.asdict(collective) for kind, collective in traffic.collectives.items()},
        ici_bytes=sent,
        memory_seconds=seconds["memory"],
        network_seconds=seconds["network"],
        step_seconds_bound=seconds[bound],
        bound=bound,
        mfu_bound=plan.model_flops / chip.flops / seconds[bound],
    )


def _first_sentence(message: str) -> str:
    found = re.search(r"Ran out of memory.*?\.(?=\s|$)|Used .*? of .*? hbm.*?\.(?=\s|$)", message, re.DOTALL)
    return " ".join((found[0] if found else message.splitlines()[0]).split())


def _gib(count):
    return "unknown" if count is None else f"{count / GIB:.2f} GiB"


def describe_plan(plan: Plan, units: int, steps: int, unit: str = "tokens") -> list[tuple[str, str]]:
    """The plan as rows of a table.

    Args:
      plan: from `make_plan`.
      units: of a global batch, such as its positions.
      steps: of the whole run; 0: there is none.
      unit: what is counted.
    """
    rows = [
        ("fits", "yes" if plan.fits else f"no: {plan.message or 'the peak is above the limit'}"),
        ("peak memory a chip", f"{_gib(plan.peak_bytes)} of {_gib(plan.hbm_limit_bytes)}"),
        ("  parameters, optimizer, batch", _gib(plan.arguments_bytes)),
        ("  activations, gradients, work", _gib(plan.temporary_bytes)),
        ("operations a chip", f"{plan.flops / 1e12:.2f} T ({plan.model_flops / 1e12:.2f} T without remat)"),
    ]
    if plan.step_seconds_bound is None or plan.mfu_bound is None or plan.hbm_bytes_accessed is None:
        return rows
    rows.append(("memory traffic a chip", f"{plan.hbm_bytes_accessed / 1e9:.1f} GB"))
    rows += [
        (f"  {kind} over ICI", f"{found['count']} a step, {found['bytes'] / 1e6:,.1f} MB sent")
        for kind, found in plan.collectives.items()
    ]
    seconds = plan.step_seconds_bound
    parts = (plan.compute_seconds, plan.memory_seconds or 0.0, plan.network_seconds)
    rows += [
        ("compute, memory, network", " / ".join(f"{1e3 * part:.1f} ms" for part in parts)),
        ("step, at least", f"{1e3 * seconds:.1f} ms, bound by {plan.bound}"),
        ("MFU, at most", f"{100 * plan.mfu_bound:.1f} %"),
        (f"{unit} a second, at most", f"{units / seconds:,.0f}"),
    ]
    return rows + ([(f"{steps:,} steps, at least", f"{steps * seconds / 86_400:.2f} days")] if steps else [])
