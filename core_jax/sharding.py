"""Which array lives where: a mesh written as text, and one ordered table from parameter path to mesh axes."""

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int64, PyTree

from core_jax.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor")  # replicas; batch and parameters; heads, MLP width and vocabulary
BATCH_AXES = ("data", "fsdp")

# First match wins. A rule names the axes of one layer; scanned layers have one axis more in front.
# Patterns end in $ and have no ^, so that one row places a parameter and both of Adam's moments.
RULES: tuple[tuple[str, P], ...] = (
    (r"token/embedding$", P("tensor", "fsdp")),
    (r"(position|type)/embedding$", P(None, "fsdp")),
    (r"relative/embedding$", P(None, "tensor")),
    (r"patch/kernel$", P(None, None, None, "fsdp")),
    (r"stem/\w+/(conv_\d|projection)/kernel$", P(None, None, None, "fsdp")),
    (r"attention/(query|key|value)/kernel$", P("fsdp", "tensor", None)),
    (r"attention/(query|key|value)/bias$", P("tensor", None)),
    (r"attention/out/kernel$", P("tensor", None, "fsdp")),
    (r"mlp/(up|gate)/kernel$", P("fsdp", "tensor")),
    (r"mlp/(up|gate)/bias$", P("tensor")),
    (r"mlp/down/kernel$", P("tensor", "fsdp")),
    (r"token_prediction/bias$", P("tensor")),
    # LayerNorm, biases of the width, scalars; and the kernels of pooler, heads and classifiers: they see few positions,
    # so that divided they would cost more in communication than they are worth in memory and arithmetic.
    (r"", P()),
)


def parse_mesh(text: str, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh from text such as `data:2,fsdp:4`.

    Args:
      text: axes and sizes; an axis that is not named has size 1, and one size may be -1: it takes what is left.
      devices: the devices to use; by default all, of all hosts.
    Returns:
      A mesh with all of MESH_AXES, in that order.
    Raises:
      UserError: the text cannot be read, or asks for more devices than there are. A mesh of fewer devices takes the
        first ones; not so on several hosts, each of which must take part.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = _parse_sizes(text)
    known = math.prod(size for size in sizes.values() if size != -1)
    count = len(devices)
    if -1 in sizes.values():
        if count % known:
            raise UserError(f"--mesh={text}: {known} does not divide the {count} devices here; {_offer(count)}")
        sizes = {axis: count // known if size == -1 else size for axis, size in sizes.items()}
    elif known > count or (known < count and jax.process_count() > 1):
        raise UserError(f"--mesh={text} asks for {known} devices, but there are {count}; {_offer(count)}")
    shape = tuple(sizes.get(axis, 1) for axis in MESH_AXES)
    used = devices[: math.prod(shape)]
    return jax.make_mesh(shape, MESH_AXES, (AxisType.Auto,) * len(MESH_AXES), devices=used)


def _parse_sizes(text):
    sizes = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\w+):(-1|[1-9]\d*)\s*", part)
        if not match or match[1] not in MESH_AXES or match[1] in sizes:
            raise UserError(
                f"--mesh={text}: cannot read {part!r}; expected AXIS:SIZE, each axis of {', '.join(MESH_AXES)} "
                "at most once, sizes positive or -1 for the devices that are left, such as --mesh=data:-1"
            )
        sizes[match[1]] = int(match[2])
    if list(sizes.values()).count(-1) > 1:
        raise UserError(f"--mesh={text}: only one axis may be -1")
    return sizes


def _offer(count):
    texts = sorted({f"data:{count}", f"fsdp:{count}", f"data:{max(count // 2, 1)},fsdp:-1"})
    return "these work: " + ", ".join(f"--mesh={text}" for text in texts)


def partition_spec(path: str, rank: int) -> P:
    """The mesh axes of an array, by its path and its number of dimensions."""
    spec = next(spec for pattern, spec in RULES if re.search(pattern, path))
    if not spec or len(spec) > rank:  # e.g. the scalar that a masked optimizer leaves in a kernel's place
        return P()
    return P(*(None,) * (rank - len(spec)), *spec)


def tree_shardings(tree: PyTree, mesh: Mesh) -> PyTree:
    """The NamedSharding of every leaf of a tree of arrays or shapes, in the shape of the tree."""

    def place(path, leaf):
        return NamedSharding(mesh, partition_spec(path_name(path), len(leaf.shape)))

    return jax.tree_util.tree_map_with_path(place, tree)


def with_shardings(shapes: PyTree, mesh: Mesh) -> PyTree:
    """A tree of shapes -> the same tree, each leaf knowing where it lives."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        tree_shardings(shapes, mesh),
    )


def on_mesh(tree: PyTree, mesh: Mesh) -> PyTree:
    """Arrays, or shapes, put where the rules say."""
    is_shape = all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree))
    return with_shardings(tree, mesh) if is_shape else jax.device_put(tree, tree_shardings(tree, mesh))


def path_name(path: Any) -> str:
    """A key path of a tree as text: `params/encoder/block_0/mlp/up/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def by_path(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by their paths: {"a": {"b": x}} -> {"a/b": x}."""
    return {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `by_path`, for a tree of dicts: {"a/b": x} -> {"a": {"b": x}}."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[name] = leaf
    return tree


def place_like(fresh: PyTree, values: Mapping[str, Any], mesh: Mesh) -> PyTree:
    """Fresh parameters with given ones in their places.

    Args:
      fresh: on the mesh, or the shapes alone where all are given.
      values: by path, of the shapes of `fresh`, on the host or on devices. Of one on the host every process puts its
        own part on the mesh, in the type of the fresh one.
      mesh: where all go.
    Returns:
      Parameters like `fresh`; those that are not given are the fresh ones.
    """

    def place(path: Any, leaf: Array | jax.ShapeDtypeStruct, sharding: NamedSharding) -> Array:
        value = values.get(path_name(path), leaf)
        if isinstance(value, jax.Array):
            return jax.device_put(value, sharding)
        value = np.asarray(value, leaf.dtype)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: value[index])

    return jax.tree.map_with_path(place, fresh, tree_shardings(fresh, mesh))


def check_mesh(mesh: Mesh, shapes: PyTree, batch_size: int, accumulation_steps: int = 1) -> None:
    """Refuses a mesh that does not divide the model or the batch, before anything is compiled.

    Args:
      mesh: from `parse_mesh`.
      shapes: the abstract state or parameters.
      batch_size: examples of the global batch.
      accumulation_steps: parts that the batch is computed in.
    Raises:
      UserError: names the number that fails and offers meshes of as many devices that work.
    """
    sizes = dict(mesh.shape)
    problem = _first_problem(sizes, shapes, batch_size, accumulation_steps)
    if problem is None:
        return
    count = math.prod(sizes.values())
    candidates = (shape for shape in itertools.product(range(1, count + 1), repeat=3) if math.prod(shape) == count)
    working = [
        "--mesh=" + ",".join(f"{axis}:{size}" for axis, size in zip(MESH_AXES, shape, strict=True) if size > 1)
        for shape in (candidates if count <= 64 else _coarse_shapes(count))
        if _first_problem(dict(zip(MESH_AXES, shape, strict=True)), shapes, batch_size, accumulation_steps) is None
    ]
    multiple = f"use --mesh=data:{count} and a --global_batch_size that is a multiple of {count * accumulation_steps}"
    offer = "these work: " + ", ".join(working[:6]) if working else multiple
    given = ",".join(f"{axis}:{size}" for axis, size in sizes.items())
    raise UserError(f"--mesh={given}: {problem}; {offer}")


def _coarse_shapes(count):
    powers = [2**i for i in range(count.bit_length())]
    return ((count // (f * t), f, t) for f in powers for t in powers if count % (f * t) == 0)


def _first_problem(sizes, shapes, batch_size, accumulation_steps):
    replicas = sizes["data"] * sizes["fsdp"] * accumulation_steps
    if batch_size % replicas:
        parts = " x ".join(f"{axis}:{sizes[axis]}" for axis in BATCH_AXES)
        parts += f" x {accumulation_steps} accumulation steps" if accumulation_steps > 1 else ""
        return f"--global_batch_size={batch_size} does not divide into {parts} = {replicas} parts"
    for path, leaf in jax.tree_util.tree_flatten_with_path(shapes)[0]:
        for size, axis in zip(leaf.shape, partition_spec(path_name(path), len(leaf.shape)), strict=False):
            if axis is not None and size % sizes[axis]:
                return f"{path_name(path)} {tuple(leaf.shape)}: {size} does not divide by {axis}:{sizes[axis]}"
    return None


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Where a batch lives: rows over the data and fsdp axes."""
    return NamedSharding(mesh, P(BATCH_AXES))


def batch_parts(mesh: Mesh) -> int:
    """The number of parts that a batch is divided into."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def local_rows(mesh: Mesh, batch_size: int) -> Int64[np.ndarray, " rows"]:
    """The rows of the global batch that this host's devices hold, in order.

    Hosts hold equal numbers; where an axis that does not divide the batch goes across hosts, several hold the same.
    """
    parts = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[part] for part in parts]))


def global_batch(local: PyTree[np.ndarray], mesh: Mesh) -> PyTree[Array]:
    """Joins every host's rows to one global array, without moving them between hosts.

    Args:
      local: this host's rows, those that `local_rows` names.
      mesh: of all devices.
    Returns:
      Arrays whose rows are those of all hosts.
    """
    sharding, parts = batch_sharding(mesh), batch_parts(mesh)
    held = local_rows(mesh, parts)  # parts of the batch that are here

    def join(rows):
        size = len(rows) // len(held)  # of a part

        def part(index):
            place = int(np.searchsorted(held, (index[0].start or 0) // size)) * size
            return rows[place : place + size]

        return jax.make_array_from_callback((size * parts, *rows.shape[1:]), sharding, part)

    return jax.tree.map(join, local)


def constrain(x: Array, *axes: str | tuple[str, ...] | None) -> Array:
    """Pins an activation to mesh axes; without a mesh in context (`jax.set_mesh`) nothing happens."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, P(*axes))


def target_platform() -> str:
    """What is compiled for: `cpu`, `gpu` or `tpu`; that of the mesh in context, which may be a machine elsewhere."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def shards_evenly(shape: Sequence[int], spec: P) -> bool:
    """Whether the mesh in context divides an array of this shape as `spec` says."""
    sizes = jax.sharding.get_abstract_mesh().shape
    for size, axes in zip(shape, spec, strict=False):
        names = (axes,) if isinstance(axes, str) else axes or ()
        if size % math.prod(sizes.get(name, 1) for name in names):
            return False
    return True


def on_each_device(function: Callable[..., Any], in_specs: tuple[P, ...], out_spec: P) -> Callable[..., Any]:
    """Runs a function on every device's own part of the arrays: for kernels, which the compiler cannot divide.

    Args:
      function: of arrays; sees parts.
      in_specs, out_spec: how arguments and result lie on the mesh.
    Returns:
      A function of whole arrays; without a mesh in context it is `function` itself.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return function
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_spec, check_vma=False)
