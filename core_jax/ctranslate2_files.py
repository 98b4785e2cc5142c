"""Reads model.bin of CTranslate2, a library that runs converted models: names, shapes and numbers, one after another.

Source: the layout is that of `ModelSpec._serialize`, https://github.com/OpenNMT/CTranslate2 (python/ctranslate2/specs/
model_spec.py), version 6.
"""

import pathlib
import struct

import jax.numpy as jnp
import numpy as np

from core_jax.errors import UserError

VERSIONS = (5, 6)
DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16, jnp.bfloat16)  # by their number in the file
SCALE = "_scale"  # ends the name of what whole numbers are divided by


def read_model_file(file: pathlib.Path) -> tuple[str, dict[str, np.ndarray]]:
    """The kind of model in a file, and its arrays by name.

    Args:
      file: model.bin.
    Returns:
      Such as "WhisperSpec"; and arrays: weights as float32, whole numbers divided by their scales, settings as they
      are. What the file names twice is there twice.
    Raises:
      UserError: the file is not there, of another format or version, or damaged.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error}); expected a model.bin of CTranslate2") from error
    try:
        kind, arrays = _parse(data)
    except (struct.error, UnicodeDecodeError, ValueError, IndexError) as error:
        raise UserError(f"{file} is damaged or no model.bin of CTranslate2 ({error}): fetch it again") from error
    return kind, {name: _in_float32(name, arrays) for name in arrays if not name.endswith(SCALE)}


class _Reader:
    """Takes values from the front of bytes."""

    def __init__(self, data: bytes):
        self._data, self._place = data, 0

    def number(self, format: str) -> int:
        """The next whole number."""
        [value] = struct.unpack_from("<" + format, self._data, self._place)
        self._place += struct.calcsize(format)
        return value

    def bytes(self, count: int) -> bytes:
        """The next bytes."""
        taken = self._data[self._place : self._place + count]
        if len(taken) < count:
            raise ValueError("it ends too early")
        self._place += count
        return taken

    def text(self) -> str:
        """The next text, which ends with a zero."""
        return self.bytes(self.number("H")).decode().rstrip("\0")


def _parse(data):
    reader, arrays = _Reader(data), {}
    if (version := reader.number("I")) not in VERSIONS:
        raise ValueError(f"its version is {version}, expected {' or '.join(map(str, VERSIONS))}")
    kind, _ = reader.text(), reader.number("I")
    for _ in range(reader.number("I")):
        name, rank = reader.text(), reader.number("B")
        shape = [reader.number("I") for _ in range(rank)]
        dtype, size = DTYPES[reader.number("B")], reader.number("I")
        arrays[name] = np.frombuffer(reader.bytes(size), dtype).reshape(shape)
    for _ in range(reader.number("I")):
        alias, name = reader.text(), reader.text()
        arrays[alias] = arrays[name]
    return kind, arrays


def _in_float32(name, arrays):
    value = arrays[name]
    if (scale := arrays.get(name + SCALE)) is not None:
        return value.astype(np.float32) / np.asarray(scale, np.float32).reshape(-1, *[1] * (value.ndim - 1))
    return value.astype(np.float32) if value.dtype in (np.float16, jnp.bfloat16) else value
