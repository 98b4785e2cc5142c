"""Learned position tables for images of another size.

Axes: R rows of the table, T positions, D width, H x W grid of patches, I and O positions along one axis.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np
import scipy.ndimage
from jaxtyping import Float

from vit_jax.config import VitConfig

Method = Literal["bicubic", "antialiased", "bilinear"]
Grid = tuple[int, int]  # patches down and across
SHARPNESS = -0.75  # of PyTorch's bicubic kernel


def interpolate(
    table: Float[np.ndarray, "1 R D"], grid: Grid, wanted: Grid, method: Method = "bicubic"
) -> Float[np.ndarray, "1 T D"]:
    """A position table for another grid of patches.

    Args:
      table: its last rows are the grid's, row by row; those before them, of tokens that are no patches, stay.
      grid: that it is for.
      wanted: that it is to be for.
      method: `bicubic` as `transformers` does for ViT and DINOv2 (PyTorch's interpolation), `antialiased` as it does
        for DINOv2 with registers, `bilinear` as https://github.com/google-research/vision_transformer (corners stay).
    Returns:
      The table; the same one where the grids are equal.
    """
    if grid == wanted:
        return table
    before = table.shape[1] - grid[0] * grid[1]
    patches, width = table[0, before:].reshape(*grid, -1), table.shape[2]
    if method == "bilinear":
        found = scipy.ndimage.zoom(patches, (wanted[0] / grid[0], wanted[1] / grid[1], 1), order=1)
    elif method == "antialiased":
        found = jax.image.resize(patches, (*wanted, width), "cubic")
    else:
        down, across = (bicubic_weights(*sizes) for sizes in zip(grid, wanted, strict=True))
        found = np.einsum("hi,wj,ijd->hwd", down, across, patches, optimize=True)
    patches = np.asarray(found, table.dtype).reshape(1, wanted[0] * wanted[1], width)
    return np.concatenate([table[:, :before], patches], axis=1)


def bicubic_weights(size: int, wanted: int) -> Float[np.ndarray, "O I"]:
    """The weights of cubic interpolation along one axis, without antialiasing; beyond the edge the edge goes on.

    Args:
      size: I, positions there are.
      wanted: O, positions to make; the middles of both ranges coincide, not those of their first and last positions.
    Source: Keys 1981, https://doi.org/10.1109/TASSP.1981.1163711, with the constant that PyTorch has.
    """
    places = (np.arange(wanted) + 0.5) * size / wanted - 0.5
    first = np.floor(places).astype(int)
    weights = np.zeros((wanted, size))
    for step in range(-1, 3):
        distance = np.abs(places - first - step)
        np.add.at(weights, (np.arange(wanted), np.clip(first + step, 0, size - 1)), _cubic(distance))
    return weights


def _cubic(distance):
    a = SHARPNESS
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def resize_model(
    config: VitConfig, params: Mapping[str, Any], image_size: str, method: Method = "bicubic"
) -> tuple[VitConfig, dict[str, Any]]:
    """A ViT for images of another size.

    Args:
      config: of the model.
      params: its parameters, with `vit` among them; on the host or on devices.
      image_size: pixels of a side, or HEIGHTxWIDTH.
      method: as for `interpolate`.
    Returns:
      Its configuration and parameters; all but a learned position table are those that were given.
    Raises:
      UserError: the size does not divide into patches.
    """
    resized = dataclasses.replace(config, image_size=image_size)
    vit = params["vit"]
    if config.positions != "learned" or config.grid == resized.grid:
        return resized, dict(params)
    table = interpolate(np.asarray(vit["embeddings"]["position"]), config.grid, resized.grid, method)
    return resized, {**params, "vit": {**vit, "embeddings": {**vit["embeddings"], "position": table}}}
