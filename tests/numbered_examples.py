"""Examples to put in order; a module of its own, since worker processes import it."""

import numpy as np

from core_jax.errors import UserError


class Numbers:
    """Examples that say which they are."""

    def __init__(self, length):
        self._length = length

    def __len__(self):
        return self._length

    def example(self, epoch, index):
        return {
            "index": np.int32(index),
            "epoch": np.int32(epoch),
            "segments": np.full(3, index + 1, np.int32),
            "weights": {"score": np.float32(index + 1), "tokens": np.ones(2, np.float32)},
        }


class Mistaken(Numbers):
    """Examples that cannot be read."""

    def example(self, epoch, index):
        raise UserError("the text is damaged")
