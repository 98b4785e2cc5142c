"""Images travel to the devices as bytes and are normalised there: a quarter of the traffic, and no work for the host.

Axes: V values, of as many pixels as there are, channel after channel.
"""

import functools
from typing import Any

import numpy as np
from jaxtyping import Array, Float32, UInt8

from core_jax.train import Loss
from vit_jax.images_config import NORMALIZATIONS, Normalization

Pixels = UInt8[np.ndarray, "*any V"] | UInt8[Array, "*any V"] | Float32[np.ndarray, "*any V"] | Float32[Array, "*any V"]
Seen = Float32[np.ndarray, "*any V"] | Float32[Array, "*any V"]
Batch = dict[str, Any]


def normalised(pixels: Pixels, normalization: Normalization, channels: int) -> Seen:
    """Values less their mean, divided by their deviation: what the model sees.

    Args:
      pixels: 0 to 255, on the host or on a device; floats are normalised already and come back as they are.
      normalization: a name of NORMALIZATIONS.
      channels: of a pixel; V is one of them or many, such as those of an image's row or of a patch.
    Returns:
      pixels * factor + summand in float32. NumPy rounds twice; XLA may round once, by a fused multiply-add.
    """
    if pixels.dtype != np.uint8:
        return pixels
    constants = _constants(normalization, channels, pixels.shape[-1])
    factors, summands = (values.reshape((1,) * (pixels.ndim - 1) + values.shape) for values in constants)
    return pixels.astype(np.float32) * factors + summands


@functools.cache
def _constants(
    normalization: Normalization, channels: int, values: int
) -> tuple[Float32[np.ndarray, " V"], Float32[np.ndarray, " V"]]:
    """Factor and summand of each value."""
    mean, deviation = (np.array(colours[:channels]) for colours in NORMALIZATIONS[normalization])
    factors, summands = (np.tile(each, values // channels) for each in (1 / (255 * deviation), -mean / deviation))
    return factors.astype(np.float32), summands.astype(np.float32)


def normalised_batch(batch: Batch, normalization: Normalization, channels: int) -> Batch:
    """A batch as the losses read it: its images, or the patches of packed ones, normalised."""
    name = "patches" if "patches" in batch else "images"
    return batch | {name: normalised(batch[name], normalization, channels)}


def of_bytes(loss: Loss, normalization: Normalization, channels: int) -> Loss:
    """A loss of normalised images as one of images as they travel."""
    return lambda params, batch, key: loss(params, normalised_batch(batch, normalization, channels), key)
