"""Learned position tables for images of another size.

Axes: R rows of the table, T positions, D width.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from jaxtyping import Float

from core_jax.grid_positions import bicubic_weights
from vit_jax.config import VitConfig

Method = Literal["bicubic", "antialiased", "bilinear"]
Grid = tuple[int, int]  # patches down and across


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
        down, across = (
            np.asarray(bicubic_weights(jnp.arange(new), jnp.full(new, new), size))
            for size, new in zip(grid, wanted, strict=True)
        )
        found = np.einsum("hi,wj,ijd->hwd", down, across, patches, optimize=True)
    patches = np.asarray(found, table.dtype).reshape(1, wanted[0] * wanted[1], width)
    return np.concatenate([table[:, :before], patches], axis=1)


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
