"""Randomness as a function of (seed, epoch, index): one generator for an example, or the first draws of many at once.

Axes: N examples, C draws of each.
"""

from typing import Any

import numpy as np
from jaxtyping import Float64, Int, UInt64
from numpy.typing import DTypeLike

# The generator of numpy.random.Philox, Philox4x64 with 10 rounds, and its constants.
ROUNDS = 10
MULTIPLIERS = (np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157))
KEY_STEPS = np.array([0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B], np.uint64)
LOW, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)  # the lower 32 bits, and how many they are
WORDS = 4  # that one value of the counter gives


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """All randomness of one example.

    Args:
      seed: of the run, 0 or more.
      epoch: which pass over the examples.
      index: which example.
    """
    counter = np.array([0, 0, index, epoch], np.uint64)  # the generator itself counts in the first word
    key: Any = _Key(seed)  # numpy's annotations know only its own seed sequences
    return np.random.Generator(np.random.Philox(key, counter=counter))


class _Key(np.random.bit_generator.ISeedSequence):
    """A seed that is the generator's key. Given as `key` it would do the same, after asking the system for entropy."""

    def __init__(self, seed: int):
        self._words = np.array([seed, 0], np.uint64)

    def generate_state(self, n_words: int, dtype: DTypeLike = np.uint32) -> np.ndarray:
        assert (n_words, np.dtype(dtype)) == (2, np.uint64)
        return self._words


def first_uniforms(
    seed: int, epoch: int, indices: Int[np.ndarray, " N"], count: int
) -> Float64[np.ndarray, "N {count}"]:
    """What `generator(seed, epoch, index).random(count)` gives, to the bit, for many indices without their generators.

    Args:
      seed: of the run, 0 or more.
      epoch: which pass over the examples.
      indices: which examples.
      count: draws of each.
    Returns:
      Numbers from 0 to 1, 1 left out.
    Source: Salmon et al. 2011, section 3, https://doi.org/10.1145/2063384.2063405
    """
    words = []
    for block in range(1, -(-count // WORDS) + 1):  # the generator counts up before it draws
        counter = (_words(block), _words(0), indices.astype(np.uint64), _words(epoch))
        words += np.broadcast_arrays(*_philox(counter, np.array([seed, 0], np.uint64)))
    return np.stack([(word >> np.uint64(11)) * 2.0**-53 for word in words[:count]], axis=-1)


def _words(number: int) -> UInt64[np.ndarray, "1"]:
    return np.array([number], np.uint64)  # an array, since scalars warn where they overflow


def _philox(counter, key):
    """The four words of each value of the counter; words may be of one element, the same for all."""
    first, second, third, fourth = counter
    for round_number in range(ROUNDS):
        keys = key + KEY_STEPS * np.uint64(round_number)
        high_first, low_first = _multiply(first, MULTIPLIERS[0])
        high_third, low_third = _multiply(third, MULTIPLIERS[1])
        first, second = high_third ^ second ^ keys[:1], low_third
        third, fourth = high_first ^ fourth ^ keys[1:], low_first
    return first, second, third, fourth


def _multiply(words, factor):
    """The upper and the lower 64 bits of products of 128."""
    high, low = words >> HALF, words & LOW
    factor_high, factor_low = factor >> HALF, factor & LOW
    middle = high * factor_low + (low * factor_low >> HALF)
    other = low * factor_high + (middle & LOW)
    return high * factor_high + (middle >> HALF) + (other >> HALF), words * factor
