"""A tiny model on a mesh, its compiled step, and the first steps that it takes."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from core_jax.config import OptimizerConfig
from core_jax.sharding import global_batch, parse_mesh, tree_shardings
from core_jax.train import State, compile_step

MESHES = ("data:1", "data:8", "data:2,fsdp:4", "data:2,tensor:2,fsdp:2")
STEPS = 20  # of the optimizer's schedule
# The epsilon is large, or Adam would turn the rounding errors of gradients near 0 into whole steps.
OPTIMIZER = OptimizerConfig(learning_rate=0.05, warmup_steps=1, epsilon=1e-2)
HostBatch = Callable[[int], dict]  # step -> batch


def mesh_of(text: str) -> Mesh:
    """A mesh over all devices; `data:1` over the first alone."""
    return parse_mesh(text, devices=jax.devices()[:1] if text == "data:1" else None)


@dataclasses.dataclass(frozen=True)
class Setup:
    """All that is needed to train on one mesh."""

    mesh: Mesh
    shardings: State
    state: State
    step: Callable[[State, dict], tuple[State, dict]]


def compiled(mesh_text: str, state: State, step: Callable, host_batch: HostBatch) -> Setup:
    """A state on a mesh, and its compiled step."""
    mesh = mesh_of(mesh_text)
    shardings = tree_shardings(state, mesh)
    state = jax.device_put(jax.tree.map(lambda leaf: leaf.copy(), state), shardings)  # the step may take the copy
    with jax.set_mesh(mesh):
        jitted: Any = compile_step(step, shardings)
        lowered = jitted.lower(state, global_batch(host_batch(0), mesh))
    return Setup(mesh, shardings, state, lowered.compile())


def take_steps(setup: Setup, steps: int, host_batch: HostBatch) -> tuple[State, list[dict]]:
    """Takes the first steps; gives the state and each step's metrics on the host."""
    state, seen = setup.state, []
    with jax.set_mesh(setup.mesh):
        for number in range(steps):
            state, metrics = setup.step(state, global_batch(host_batch(number), setup.mesh))
            seen.append(jax.device_get(metrics))
    return state, seen
