"""Where the patches of an image stand: fixed waves of row and column, and learned tables read between their entries.

Axes: T positions, D width, N places along one side of a grid.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

SHARPNESS = -0.75  # of PyTorch's bicubic kernel


def sincos_positions(rows: int, columns: int, width: int, *, endpoint: bool = True) -> Float[np.ndarray, "T D"]:
    """Fixed positions on a grid: sines and cosines of the column, then of the row.

    Args:
      rows, columns: of the grid.
      width: D, a multiple of 4.
      endpoint: whether the longest wave is 10,000 times the shortest, or one step before that.
    Source: Beyer et al. 2022, https://arxiv.org/abs/2205.01580, after Chen et al. 2021 (MoCo v3); without the endpoint
      He et al. 2021, https://arxiv.org/abs/2111.06377
    """
    y, x = (axis.reshape(-1) for axis in np.mgrid[:rows, :columns])
    waves = sincos_waves(max(rows, columns), width // 2, endpoint=endpoint)
    return np.concatenate([waves[x], waves[y]], axis=1)


def sincos_waves(places: int, width: int, *, endpoint: bool = True) -> Float[np.ndarray, "N W"]:
    """Sines, then cosines, of each place along one side of a grid.

    Args:
      places: N.
      width: W, half of that of a position; even.
      endpoint: as for `sincos_positions`.
    """
    frequencies = 10_000.0 ** -np.linspace(0.0, 1.0, width // 2, endpoint=endpoint)
    angles = np.arange(places)[:, None] * frequencies[None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def bicubic_weights(
    places: Int[Array, "*shape"], wanted: Int[Array, "*shape"], size: int
) -> Float[Array, "*shape {size}"]:
    """The weights of cubic interpolation along one side, without antialiasing; beyond the edge the edge goes on.

    Args:
      places: of what is wanted, 0 .. wanted - 1.
      wanted: how many places there are to be; the middles of both ranges coincide, not those of their first and last.
      size: places that there are.
    Returns:
      How much of each of these a wanted place has; where as many are wanted as there are, exactly its own.
    Source: Keys 1981, https://doi.org/10.1109/TASSP.1981.1163711, with the constant that PyTorch has.
    """
    middles = (places.astype(jnp.float32) + 0.5) * size / wanted - 0.5
    first, weights = jnp.floor(middles), jnp.zeros((*places.shape, size), jnp.float32)
    for step in range(-1, 3):
        near = jnp.clip(first + step, 0, size - 1).astype(jnp.int32)
        weights += jax.nn.one_hot(near, size) * _cubic(jnp.abs(middles - first - step))[..., None]
    return weights


def _cubic(distance):
    a = SHARPNESS
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return jnp.where(distance <= 1, near, jnp.where(distance < 2, far, 0.0))
