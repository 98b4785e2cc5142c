"""How Whisper's parameters are called by `transformers` and by CTranslate2, beside ours. NumPy only.

Axes: D width.
"""

import re
from collections.abc import Mapping

import numpy as np

from core_jax import peer_names

MODULES = {  # ours -> those of transformers; # is the number of a layer
    "encoder/conv_1": "model.encoder.conv1",
    "encoder/conv_2": "model.encoder.conv2",
    "decoder/embeddings/token": "model.decoder.embed_tokens",
    "decoder/embeddings/position": "model.decoder.embed_positions",
}
ATTENTION = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}


def is_named(path: str) -> bool:
    """Whether the peer has our parameter. Keys have no bias there.

    One changes all logits of a query alike, and so no weight of attention.
    """
    return not path.endswith("key/bias")


def _blocks(ours: str, theirs: str, *, cross: bool) -> dict[str, str]:
    """The modules of a stack of blocks."""
    block, layer = f"{ours}/block_#", f"{theirs}.layers.#"
    parts = {f"{block}/attention/{part}": f"{layer}.self_attn.{name}" for part, name in ATTENTION.items()}
    parts[f"{block}/attention_norm"] = f"{layer}.self_attn_layer_norm"
    if cross:
        parts |= {f"{block}/cross_attention/{part}": f"{layer}.encoder_attn.{name}" for part, name in ATTENTION.items()}
        parts[f"{block}/cross_attention_norm"] = f"{layer}.encoder_attn_layer_norm"
    parts |= {f"{block}/mlp/up": f"{layer}.fc1", f"{block}/mlp/down": f"{layer}.fc2"}
    return parts | {f"{block}/mlp_norm": f"{layer}.final_layer_norm", f"{ours}/final_norm": f"{theirs}.layer_norm"}


def _rows(ours: str, theirs: str) -> dict[str, str]:
    if "embeddings/" in ours:
        return {f"{ours}/embedding": f"{theirs}.weight"}
    rows = (peer_names.norm if ours.endswith("norm") else peer_names.linear)(ours, theirs)
    return {path: name for path, name in rows.items() if is_named(path)}


_STACKS = _blocks("encoder/encoder", "model.encoder", cross=False) | _blocks(
    "decoder/decoder", "model.decoder", cross=True
)
TABLE = {path: name for ours, theirs in (MODULES | _STACKS).items() for path, name in _rows(ours, theirs).items()}
TABLE["encoder/positions"] = "model.encoder.embed_positions.weight"


def peer_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The peer's names and shapes of our parameters, by our paths and shapes."""
    return {peer_names.peer_name(TABLE, path): _shape(path, shape) for path, shape in shapes.items() if is_named(path)}


def _is_convolution(path: str) -> bool:
    return "/conv_" in path and path.endswith("kernel")


def _shape(path, shape):
    return shape[::-1] if _is_convolution(path) else peer_names.peer_shape(path, shape)


def to_peer(params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The peer's tensors of our parameters, which are given by path."""
    return {
        peer_names.peer_name(TABLE, path): value.T
        if _is_convolution(path)
        else peer_names.to_peer(path, value, _shape(path, value.shape))
        for path, value in params.items()
        if is_named(path)
    }


def from_peer(tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The inverse of `to_peer`: our parameters by path; the bias of keys is zero."""
    params = {}
    for path, shape in shapes.items():
        if not is_named(path):
            params[path] = np.zeros(shape, np.float32)
            continue
        value = tensors[peer_names.peer_name(TABLE, path)]
        params[path] = value.T if _is_convolution(path) else peer_names.from_peer(path, value, shape)
    return params


# CTranslate2's -> transformers'; attention is joined there: query, key and value, or key and value.
RENAMED = (
    (r"layer_(\d+)/", r"layers.\1."),
    (r"self_attention/layer_norm", "self_attn_layer_norm"),
    (r"(?<!self_)attention/layer_norm", "encoder_attn_layer_norm"),
    (r"ffn/layer_norm", "final_layer_norm"),
    (r"ffn/linear_0", "fc1"),
    (r"ffn/linear_1", "fc2"),
    (r"embeddings/weight", "embed_tokens.weight"),
    (r"position_encodings/encodings", "embed_positions.weight"),
    (r"/gamma$", ".weight"),
    (r"/beta$", ".bias"),
    (r"/", "."),
)
JOINED = {  # CTranslate2's linear layers of attention -> the parts of each
    "self_attention/linear_0": ("self_attn", ("q_proj", "k_proj", "v_proj")),
    "self_attention/linear_1": ("self_attn", ("out_proj",)),
    "attention/linear_0": ("encoder_attn", ("q_proj",)),
    "attention/linear_1": ("encoder_attn", ("k_proj", "v_proj")),
    "attention/linear_2": ("encoder_attn", ("out_proj",)),
}


def from_ctranslate2(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of CTranslate2 by the names of transformers; settings are left out."""
    tensors = {}
    for name, value in arrays.items():
        if value.ndim == 0 or "alignment_heads" in name or name.startswith("decoder/projection"):
            continue
        match = re.fullmatch(r"(\w+)/layer_(\d+)/((?:self_)?attention/linear_\d)/(\w+)", name)
        if match is None:
            for pattern, replacement in RENAMED:
                name = re.sub(pattern, replacement, name)
            tensors[f"model.{name}"] = value
            continue
        stack, layer, joined, leaf = match.groups()
        attention, parts = JOINED[joined]
        for part, piece in zip(parts, np.split(value, len(parts)), strict=True):
            if (part, leaf) != ("k_proj", "bias"):
                tensors[f"model.{stack}.layers.{layer}.{attention}.{part}.{leaf}"] = piece
    return tensors
