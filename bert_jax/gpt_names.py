"""How the parameters of the peer, GPT-2 of `transformers`, are called and shaped, beside ours. NumPy only.

There a linear layer is a `Conv1D`, whose kernel has its inputs first as ours, and one makes queries, keys and values.

Axes: D width, H heads, K width of a head.
"""

from collections.abc import Mapping

import numpy as np

from core_jax import peer_names

MODULES = {  # ours -> the peer's; # is the number of a layer
    "embeddings/token": "wte",
    "embeddings/position": "wpe",
    "decoder/block_#/attention_norm": "h.#.ln_1",
    "decoder/block_#/attention/joint": "h.#.attn.c_attn",
    "decoder/block_#/attention/out": "h.#.attn.c_proj",
    "decoder/block_#/mlp_norm": "h.#.ln_2",
    "decoder/block_#/mlp/up": "h.#.mlp.c_fc",
    "decoder/block_#/mlp/down": "h.#.mlp.c_proj",
    "decoder/final_norm": "ln_f",
}
PARTS = ("query", "key", "value")  # of what is joint there, in its order


def _rows(ours: str, theirs: str) -> dict[str, str]:
    if ours.startswith("embeddings/"):
        return {f"{ours}/embedding": f"{theirs}.weight"}
    return (peer_names.norm if ours.endswith("norm") else peer_names.linear)(ours, theirs)


TABLE = {path: name for ours, theirs in MODULES.items() for path, name in _rows(ours, theirs).items()}


def peer_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The peer's names and shapes of parameters of the unrolled model, by our paths and shapes."""
    named: dict[str, tuple[int, ...]] = {}
    for path, shape in shapes.items():
        *_, layer, leaf = path.split("/")
        width = shapes["embeddings/token/embedding"][1]
        flat = (width, width) if leaf == "kernel" and len(shape) == 3 else shape
        if layer in PARTS:
            flat = (width, 3 * width) if leaf == "kernel" else (3 * width,)
        named[peer_name(path)] = flat
    return named


def peer_name(path: str) -> str:
    """The peer's name of our parameter, or of what it is a part of; such as `decoder/block_0/attention/key/bias`."""
    *modules, layer, leaf = path.split("/")
    return peer_names.peer_name(TABLE, "/".join((*modules, "joint" if layer in PARTS else layer, leaf)))


def to_peer(params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The peer's tensors of the unrolled model's parameters, which are given by path."""
    shapes = peer_shapes({path: value.shape for path, value in params.items()})
    tensors: dict[str, np.ndarray] = {}
    for path, value in params.items():
        *modules, layer, leaf = path.split("/")
        if layer == PARTS[0]:
            parts = [params["/".join((*modules, part, leaf))] for part in PARTS]
            width = shapes[peer_name(path)][0] if leaf == "kernel" else 1
            value = np.concatenate([part.reshape(width, -1) for part in parts], axis=1)
        if layer not in PARTS[1:]:
            tensors[peer_name(path)] = value.reshape(shapes[peer_name(path)])
    return tensors


def from_peer(tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The inverse of `to_peer`: our parameters by path.

    Args:
      tensors: by the peer's names, of the shapes of `peer_shapes`.
      shapes: of our parameters, by path.
    """
    params: dict[str, np.ndarray] = {}
    for path, shape in shapes.items():
        layer, value = path.split("/")[-2], tensors[peer_name(path)]
        if layer in PARTS:
            value = np.split(value, len(PARTS), axis=-1)[PARTS.index(layer)]
        params[path] = np.ascontiguousarray(value.reshape(shape))
    return params
