"""How peers that store linear layers as PyTorch does name and shape what we name by path. NumPy only.

A table leads from our path of a parameter to the peer's name of it; # is the number of a layer.
"""

import math
import re
from collections.abc import Iterable, Mapping

import numpy as np

from core_jax.errors import UserError

PEER_GELUS = {"erf": "gelu", "tanh": "gelu_pytorch_tanh"}


def linear(ours: str, theirs: str) -> dict[str, str]:
    """The rows of a table for a linear layer or a convolution."""
    return {f"{ours}/kernel": f"{theirs}.weight", f"{ours}/bias": f"{theirs}.bias"}


def norm(ours: str, theirs: str) -> dict[str, str]:
    """The rows of a table for a LayerNorm."""
    return {f"{ours}/scale": f"{theirs}.weight", f"{ours}/bias": f"{theirs}.bias"}


def peer_name(table: Mapping[str, str], path: str) -> str:
    """The peer's name of our parameter.

    Args:
      table: of the peer.
      path: such as `bert/pooler/dense/kernel`.
    Raises:
      KeyError: the peer has no such parameter.
    """
    layer = re.search(r"(?<=block_)\d+", path)
    name = table[re.sub(r"(?<=block_)\d+", "#", path)]
    return name.replace("#", layer[0]) if layer else name


def our_path(table: Mapping[str, str], name: str) -> str | None:
    """The inverse of `peer_name`; None for a name that the table does not have."""
    layer = re.search(r"(?<=\.)\d+(?=\.)", name)
    wanted = re.sub(r"(?<=\.)\d+(?=\.)", "#", name, count=1)
    path = next((ours for ours, theirs in table.items() if theirs == wanted), None)
    if path is None:
        return None
    path = path.replace("#", layer[0]) if layer else path
    return path if peer_name(table, path) == name else None


def peer_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The peer's shape of our parameter of a shape; the axes of heads are joined, those of a convolution reversed."""
    if path.endswith("kernel"):
        if len(shape) == 4:
            return shape[3], shape[2], shape[0], shape[1]
        inputs = len(shape) - 1 if path.endswith("out/kernel") else 1
        return math.prod(shape[inputs:]), math.prod(shape[:inputs])
    return (math.prod(shape),) if path.endswith("bias") else shape


def to_peer(path: str, ours: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Our array in the peer's shape: outputs come first there, and a linear layer knows no axis of heads."""
    if not path.endswith("kernel"):
        return ours.reshape(shape)
    return ours.transpose(3, 2, 0, 1) if ours.ndim == 4 else ours.reshape(shape[::-1]).T


def from_peer(path: str, theirs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `to_peer`; `shape` is ours."""
    if not path.endswith("kernel"):
        return theirs.reshape(shape)
    return theirs.transpose(2, 3, 1, 0) if theirs.ndim == 4 else theirs.T.reshape(shape)


def check_tensors(
    found: Mapping[str, np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
    source: str,
    kind: str,
    problems: Iterable[str] = (),
) -> None:
    """Refuses tensors that are not those of a model.

    Args:
      found: by name.
      expected: shapes by name.
      source: where they come from.
      kind: of the model, such as `a BERT`.
      problems: what else is wrong with them.
    Raises:
      UserError: some are missing, unknown or of another shape, or there are other problems; all are listed.
    """
    problems = list(problems)
    problems += [f"{name}: missing" for name in sorted(expected.keys() - found.keys())]
    problems += [f"{name}: unknown" for name in sorted(found.keys() - expected.keys())]
    problems += [
        f"{name}: of shape {found[name].shape}, expected {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name].shape != expected[name]
    ]
    if problems:
        raise UserError(
            f"the tensors of {source} are not those of {kind} with the sizes in its config:\n  " + "\n  ".join(problems)
        )
