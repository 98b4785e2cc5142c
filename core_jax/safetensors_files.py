"""Tensors in files that hold nothing else: safetensors, whole or in shards. Pickles, which can run code, stay shut."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float32

from core_jax.errors import UserError

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# As a safetensors header names them; integers occur only in what is not read.
FLOATS = {"F16": np.dtype(np.float16), "BF16": np.dtype(jnp.bfloat16), "F32": np.dtype(np.float32)}
FLOATS["F64"] = np.dtype(np.float64)

Tensors = dict[str, Float32[np.ndarray, "..."]]


def read_tensors(folder: pathlib.Path) -> Tensors:
    """All tensors of floats in a folder's model.safetensors, or in the shards that its index names.

    Args:
      folder: of the model.
    Returns:
      Each by its name, as float32. Tensors of integers, which are no weights, are left out.
    Raises:
      UserError: there is no such file, one is damaged, or there are only pickles.
    """
    if (folder / FILE).exists():
        return read_tensor_file(folder / FILE)
    if not (folder / INDEX).exists():
        raise UserError(_nothing_to_read(folder))
    try:
        owners: dict[str, str] = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(owners.values()))
        if any(pathlib.PurePath(shard).name != shard for shard in shards):
            raise ValueError("it names files of another folder")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / INDEX} cannot be read ({error}): fetch it again") from error
    if absent := [shard for shard in shards if not (folder / shard).exists()]:
        raise UserError(f"{folder} lacks {', '.join(absent)}, which its {INDEX} names: fetch them as well")
    return {name: value for shard in shards for name, value in read_tensor_file(folder / shard).items()}


def write_tensors(folder: pathlib.Path, tensors: Tensors) -> None:
    """Writes model.safetensors, marked as `transformers` expects it."""
    (folder / FILE).write_bytes(pack_tensors(tensors))


def pack_tensors(tensors: Tensors) -> bytes:
    """The content of a safetensors file, marked as `transformers` expects it."""
    contiguous = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    return safetensors.numpy.save(contiguous, metadata={"format": "pt"})


def read_tensor_file(file: pathlib.Path) -> Tensors:
    """All tensors of floats in one safetensors file, by name, as float32.

    Raises:
      UserError: it is not there, damaged, or of another format.
    """
    try:
        # The bytes, not arrays: NumPy itself knows no bfloat16.
        stored = safetensors.deserialize(file.read_bytes())
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{file} is damaged or no safetensors file ({error}): fetch it again") from error
    return {
        name: np.frombuffer(tensor["data"], FLOATS[tensor["dtype"]]).reshape(tensor["shape"]).astype(np.float32)
        for name, tensor in stored
        if tensor["dtype"] in FLOATS
    }


def _nothing_to_read(folder):
    if not folder.is_dir():
        return f"{folder} is no folder; expected that of a model, with config.json and {FILE}"
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if not pickles:
        return f"{folder} holds no {FILE} and no {INDEX}; expected one of them beside config.json"
    return (
        f"{folder} holds {', '.join(pickles)} but no {FILE}. A pickle can run any code, so it is never loaded here. "
        "If you trust it, convert it where `transformers` is installed:\n"
        f"  python -c \"import transformers as t; f = '{folder}'; "
        'getattr(t, t.AutoConfig.from_pretrained(f).architectures[0]).from_pretrained(f).save_pretrained(f)"'
    )
