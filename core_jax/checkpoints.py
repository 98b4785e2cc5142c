"""Checkpoints: asynchronous, atomic, the newest few kept, each proved whole when it is read.

A save is written under a temporary name and renamed when it is complete, so a killed run leaves whole checkpoints only.
Every checkpoint carries fingerprints of its arrays: one that was damaged later is recognised, reported and passed over.
"""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from jaxtyping import Array, PyTree, UInt32

from core_jax.distributed import first_decides, together
from core_jax.errors import UserError
from core_jax.train import State

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells every file that it touches


class Checkpoints:
    """The checkpoints of one work folder."""

    def __init__(
        self, directory: epath.PathLike, *, keep: int, identity: dict[str, str], report: Callable[[str], None]
    ):
        """Opens or makes the folder, and clears away what a killed save left.

        Args:
          directory: any path that etils.epath knows.
          keep: how many of the newest stay.
          identity: what the parameters belong to beside their shapes, such as {"vocabulary": HASH}; saved with them.
          report: is told about checkpoints that cannot be used.
        """
        self._directory = _absolute(directory)
        self._identity = identity
        self._report = report
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def save(self, step: int, state: State) -> None:
        """Starts to save; the arrays are copied before it returns, the writing goes on in the background."""
        fields = _storable(state)
        tree = {"state": fields, "fingerprints": _fingerprints(fields)}
        self._manager.save(
            step, args=ocp.args.Composite(state=ocp.args.StandardSave(tree), identity=ocp.args.JsonSave(self._identity))
        )

    def wait(self) -> None:
        """Returns when everything is written; raises what went wrong in the background."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then lets go of the folder."""
        self._manager.close()

    def restore_newest(self, abstract: State) -> State | None:
        """The newest checkpoint that is whole.

        Args:
          abstract: shapes, dtypes and shardings of the state; it comes back with those shardings, on any mesh.
        Returns:
          The state, or None where there is no checkpoint at all.
        Raises:
          UserError: there are checkpoints, but none can be read, or they belong to something else.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            path = self._directory / str(step)
            try:
                return _restore(path, abstract, self._identity)
            except UserError:
                raise
            except Exception as error:  # whatever a damaged file provokes in the reader
                self._set_aside(step, error)
        if steps:
            raise UserError(
                f"none of the checkpoints in {self._directory} can be read; they were moved to {self._damaged}: "
                "start again in another --workdir"
            )
        return None

    @property
    def _damaged(self):
        return self._directory.parent / "damaged_checkpoints"

    def _set_aside(self, step, error):
        """Moves a damaged checkpoint out of the way: its number will be saved again."""
        self._report(
            f"checkpoint {step} is damaged ({_first_line(error)}): moved to {self._damaged}, using the one before"
        )
        first_decides(lambda: self._move(step))
        self._manager.reload()

    def _move(self, step):
        self._damaged.mkdir(parents=True, exist_ok=True)
        taken = sum(path.name.startswith(f"{step}-") for path in self._damaged.iterdir())
        (self._directory / str(step)).rename(self._damaged / f"{step}-{taken}")


def restore_params(
    directory: epath.PathLike,
    abstract_params: PyTree,
    *,
    identity: dict[str, str],
    report: Callable[[str], None],
    abstract_opt: PyTree | None = None,
) -> PyTree:
    """The parameters alone of the newest whole checkpoint; nothing in the folder is changed.

    Args:
      directory: of the checkpoints.
      abstract_params: shapes, dtypes and shardings to bring them back with.
      identity: as given to `Checkpoints`; the checkpoint's must be the same.
      report: is told about checkpoints that cannot be used.
      abstract_opt: of the optimizer's state, if it is from `with_average`: the average is given instead.
    Raises:
      UserError: there is no checkpoint, its parameters have other shapes, or none can be read.
    """
    steps = check_saved(directory)
    fields = {"params": abstract_params} | ({} if abstract_opt is None else {"opt": abstract_opt})
    for step in reversed(steps):
        path = _absolute(directory) / str(step)
        try:
            found = _restore_partly(path, fields, identity)
            return found["params"] if abstract_opt is None else found["opt"][1].average
        except UserError:
            raise
        except Exception as error:  # whatever a damaged file provokes in the reader
            report(f"checkpoint {step} is damaged ({_first_line(error)}): using the one before")
    raise UserError(f"none of the checkpoints in {directory} can be read: {', '.join(map(str, steps))}")


def check_saved(directory: epath.PathLike) -> list[int]:
    """The steps of a folder's complete checkpoints, oldest first; raises UserError where there is none."""
    steps = saved_steps(directory)
    if not steps:
        raise UserError(f"{directory} holds no checkpoint: train first, or give the --workdir of a run that did")
    return steps


def saved_steps(directory: epath.PathLike) -> list[int]:
    """Steps of the complete checkpoints in a folder, oldest first; empty where there is no folder."""
    directory = epath.Path(directory)
    if not directory.exists():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())


def state_bytes(abstract: State) -> int:
    """The bytes of a whole state, over all devices."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(_abstract_storable(abstract)))


class DamagedError(ValueError):
    """The arrays of a checkpoint are not those that were saved."""


def _restore(path, abstract, identity):
    fields = _restore_partly(path, _abstract_storable(abstract), identity)
    key = jax.random.wrap_key_data(fields["key"])
    return State(fields["step"], fields["params"], fields["opt"], jax.device_put(key, abstract.key.sharding))


def _restore_partly(path, fields, identity):
    """Restores the given fields of the state and holds them against their fingerprints.

    Each process reads its own parts of the arrays: what one of them cannot read, none takes.
    """
    replicated = jax.sharding.NamedSharding(jax.tree.leaves(fields)[0].sharding.mesh, jax.sharding.PartitionSpec())
    prints = {name: jax.ShapeDtypeStruct((), jnp.uint32, sharding=replicated) for name in fields}
    target = {"state": fields, "fingerprints": prints}
    args = ocp.args.PyTreeRestore(
        item=target, restore_args=ocp.checkpoint_utils.construct_restore_args(target), partial_restore=True
    )
    # The handler alone: a Checkpointer would wait for processes that have failed.
    with together(), contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
        _check_identity(path, identity)
        _check_shapes(path, fields["params"])
        tree = reader.restore(path / "state", args=args)
    expected, found = tree["fingerprints"], _fingerprints(tree["state"])
    wrong = [name for name in expected if int(expected[name]) != int(found[name])]
    if wrong:
        raise DamagedError(f"{', '.join(wrong)} differ from what was saved")
    return tree["state"]


def _check_identity(path, expected):
    found = json.loads((path / "identity" / "metadata").read_text())
    wrong = [name for name in expected if found.get(name) != expected[name]]
    if wrong:
        raise UserError(
            f"the checkpoint {path} belongs to another {' and '.join(wrong)}: "
            f"put back the {' and '.join(wrong)} that it was trained with"
        )


def _check_shapes(path, abstract_params):
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
        saved = reader.metadata(path / "state").tree["state"]["params"]
    expected = dict(_named_shapes(abstract_params))
    found = dict(_named_shapes(saved))
    wrong = [
        f"{name}: {found.get(name, 'missing')} in the checkpoint, {expected.get(name, 'not')} in the model"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    if wrong:
        raise UserError(f"the checkpoint {path} does not fit the model:\n  " + "\n  ".join(wrong))


def _named_shapes(tree) -> Iterator[tuple[str, tuple[int, ...]]]:
    is_leaf = lambda node: hasattr(node, "shape")  # noqa: E731
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)[0]:
        yield jax.tree_util.keystr(path, simple=True, separator="/"), tuple(leaf.shape)


def _storable(state: State) -> dict[str, Any]:
    """The state as a dict; the key as its numbers, since files hold no typed keys."""
    return {
        "step": state.step,
        "params": state.params,
        "opt": state.opt,
        "key": jax.random.key_data(state.key),
    }


def _abstract_storable(abstract):
    numbers = jax.eval_shape(jax.random.key_data, abstract.key)
    numbers = jax.ShapeDtypeStruct(numbers.shape, numbers.dtype, sharding=getattr(abstract.key, "sharding", None))
    return {field.name: getattr(abstract, field.name) for field in dataclasses.fields(abstract)} | {"key": numbers}


@jax.jit
def _fingerprints(fields):
    return {name: fingerprint(tree) for name, tree in fields.items()}


def fingerprint(tree: PyTree[Array]) -> UInt32[Array, ""]:
    """A number that changes with any bit of any array, and not with how the arrays are sharded.

    Each element's bits are mixed with its position and added up modulo 2^32: addition is exact in any order.
    """
    total = jnp.zeros((), jnp.uint32)
    for number, leaf in enumerate(jax.tree.leaves(tree)):
        bits = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{leaf.dtype.itemsize * 8}")).astype(jnp.uint32)
        position, stride = jnp.full((), number + 1, jnp.uint32), 1
        for axis in reversed(range(leaf.ndim)):
            position = position + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * jnp.uint32(stride % 2**32)
            stride *= leaf.shape[axis]
        mixed = (bits + position * jnp.uint32(0x9E3779B9)) * jnp.uint32(0x85EBCA6B)
        mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0xC2B2AE35)
        total = total + jnp.sum(mixed ^ (mixed >> 13), dtype=jnp.uint32)
    return total


def _absolute(directory):
    """Orbax takes absolute paths only."""
    return epath.Path(directory).expanduser().resolve()


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
