"""Several runs that differ in their seed alone, trained at once: a step on their stacked states is the step of each.

The mesh has one axis more, in front: each run has a slice of the devices, and each device the state of one run, as if
that run were alone on a mesh as small as its slice.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, PyTree

from core_jax.sharding import BATCH_AXES, MESH_AXES, tree_shardings
from core_jax.train import RATES, Metrics, State

SEED_AXIS = "seed"
STACKED = State(step=None, params=0, opt=0, key=0)  # axes of the runs: the number of steps is that of all
BY_RUN = ("params", "opt", "key")


def split_mesh(mesh: Mesh, runs: int) -> Mesh:
    """A mesh of the same devices in the same order, whose slices along SEED_AXIS are meshes for one run each.

    Args:
      mesh: from `parse_mesh`.
      runs: divides its data axis.
    """
    data, *rest = mesh.devices.shape
    return _split(mesh.devices.reshape(runs, data // runs, *rest))


def _split(devices):
    return Mesh(devices, (SEED_AXIS, *MESH_AXES), axis_types=(AxisType.Auto,) * (1 + len(MESH_AXES)))


def _slice(mesh, number):
    return _split(mesh.devices[number : number + 1])


def _stacked_shardings(state: State, mesh: Mesh) -> State:
    """Where the stacked state of runs lives, by the shapes of one."""
    alone = tree_shardings(state, mesh)
    stacked = jax.tree.map(lambda place: NamedSharding(mesh, P(SEED_AXIS, *place.spec)), alone)
    return dataclasses.replace(stacked, step=alone.step)


def move_to_slice(state: State, mesh: Mesh, number: int) -> State:
    """The state of one run as a stack of one, moved to the slice of run `number` of a mesh from `split_mesh`."""
    return jax.device_put(_as_stack(state), _stacked_shardings(state, _slice(mesh, number)))


@jax.jit
def _as_stack(state):
    return dataclasses.replace(jax.tree.map(lambda x: x[None], state), step=state.step)


@jax.jit
def _first(state):
    return dataclasses.replace(jax.tree.map(lambda x: x[0], dataclasses.replace(state, step=())), step=state.step)


def stack(states: Sequence[State], mesh: Mesh) -> State:
    """One state of all runs; nothing moves from one device to another.

    Args:
      states: each from `move_to_slice`, in order; all at one step.
      mesh: from `split_mesh`.
    """

    def join(*leaves: Any) -> Array:
        shape, sharding = (len(leaves), *leaves[0].shape[1:]), NamedSharding(mesh, leaves[0].sharding.spec)
        parts = [shard.data for leaf in leaves for shard in leaf.addressable_shards]
        return jax.make_array_from_single_device_arrays(shape, sharding, parts)

    step = jax.device_put(np.asarray(states[0].step), NamedSharding(mesh, P()))
    return State(step, *(jax.tree.map(join, *(getattr(state, name) for state in states)) for name in BY_RUN))


def take(state: State, number: int, mesh: Mesh) -> State:
    """The state of one run of those that `stack` joined, on a mesh of all devices.

    Args:
      state: of all.
      number: of the run.
      mesh: that was split.
    """
    own = _slice(jax.tree.leaves(state.params)[0].sharding.mesh, number)
    held = set(own.devices.flat)

    def move(leaf: Any) -> Array:
        parts = [shard.data for shard in leaf.addressable_shards if shard.device in held]
        sharding, spec = NamedSharding(own, leaf.sharding.spec), P(None, *leaf.sharding.spec[1:])
        alone = jax.make_array_from_single_device_arrays((1, *leaf.shape[1:]), sharding, parts)
        return jax.device_put(alone, NamedSharding(mesh, spec))

    step = jax.device_put(np.asarray(state.step), NamedSharding(mesh, P()))
    with jax.set_mesh(mesh):
        alone = _first(State(step, *(jax.tree.map(move, getattr(state, name)) for name in BY_RUN)))
    return jax.device_put(alone, tree_shardings(alone, mesh))


def stacked_batch(batches: Sequence[PyTree[np.ndarray]], mesh: Mesh) -> PyTree[Array]:
    """One batch of each run, all of one shape, on a mesh from `split_mesh`."""
    sharding = NamedSharding(mesh, P(SEED_AXIS, BATCH_AXES))
    return jax.tree.map(lambda *leaves: jax.device_put(np.stack(leaves), sharding), *batches)


def compile_side_by_side(
    step: Callable[[State, dict[str, Any]], tuple[State, Metrics]], shapes: State, mesh: Mesh
) -> Callable[[State, dict[str, Any]], tuple[State, Metrics]]:
    """Jits the step of several runs.

    Args:
      step: of one, from `make_step`.
      shapes: of the state of one.
      mesh: from `split_mesh`.
    Returns:
      (stacked state, stacked batch) -> (next state, metrics): each metric over all runs under its name, and of each
      run, as `values_of_run` takes them out.
    """
    of_all = jax.vmap(step, in_axes=(STACKED, 0), out_axes=(STACKED, 0), spmd_axis_name=SEED_AXIS)

    def train(state: State, batch: dict[str, Any]) -> tuple[State, Metrics]:
        state, metrics = of_all(state, batch)
        found = {name: (jnp.sum(total), jnp.sum(count)) for name, (total, count) in metrics.items()}
        for number in range(mesh.shape[SEED_AXIS]):
            found |= {f"{number}/{name}": (total[number], count[number]) for name, (total, count) in metrics.items()}
        return state, found

    return jax.jit(train, donate_argnums=0, out_shardings=(_stacked_shardings(shapes, mesh), None))


def values_of_run(values: Mapping[str, float], number: int) -> dict[str, float]:
    """What was measured of one run, of the values that `core_jax.train.fit` records of all."""
    prefix = f"{number}/"
    own = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    own["steps_per_second"] = values["steps_per_second"]
    for name, rate in RATES.items():
        if name in own:  # each run's part of the work of all: their batches are of one shape
            parts = [value for other, value in values.items() if other.endswith(f"/{name}")]
            own[rate] = values[rate] * own[name] / sum(parts)
    return own
