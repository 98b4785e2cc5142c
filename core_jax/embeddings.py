"""What turns inputs into hidden states.

Axes: B batch, T positions, D width, H x W pixels, C channels, P side of a patch.
"""

from typing import Literal, NamedTuple, TypeVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from core_jax.config import TransformerConfig
from core_jax.dropout import drop_units
from core_jax.grid_positions import bicubic_weights, sincos_positions, sincos_waves
from core_jax.layers import compute_dtype, initializer, layer_norm, linear, table_initializer
from core_jax.matmul import matmul
from core_jax.sharding import BATCH_AXES, constrain

# Pixels or patches: on a device or, where rows are packed, on the host, there also as bytes.
Values = TypeVar("Values", Float[Array, "B ..."], Float[np.ndarray, "B ..."], UInt8[np.ndarray, "B ..."])


class Embedding(nn.Module):
    """A table of vectors, to look up or to multiply with."""

    config: TransformerConfig
    rows: int
    row_axis: str | None = None  # mesh axis that the rows are spread over
    is_output: bool = False  # whether it is only multiplied with

    def setup(self):
        """Makes the table."""
        init = table_initializer(self.config, is_output=self.is_output)
        self.embedding = self.param("embedding", init, (self.rows, self.config.width))

    def table(self) -> Float[Array, "rows D"]:
        """The table in the type of computation, its width gathered from the fsdp axis."""
        return constrain(self.embedding.astype(compute_dtype(self.config)), self.row_axis, None)

    def __call__(self, ids: Int[Array, "*B T"]) -> Float[Array, "*B T D"]:
        """The vectors of the given rows."""
        return jnp.take(self.table(), ids, axis=0)

    def attend(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B rows"]:
        """The product of hidden states with every row."""
        return matmul(hidden, self.table(), transposed=True)


class TextEmbeddings(nn.Module):
    """The sum of token, position and type embeddings, then LayerNorm and dropout.

    Source: Devlin et al. 2018, figure 2, https://arxiv.org/abs/1810.04805
    """

    config: TransformerConfig
    vocab_size: int
    maximum_positions: int
    type_vocab_size: int

    def setup(self):
        """Makes the three tables."""
        self.token = Embedding(self.config, self.vocab_size, row_axis="tensor")
        self.position = Embedding(self.config, self.maximum_positions)
        self.type = Embedding(self.config, self.type_vocab_size)
        self.norm = layer_norm(self.config, "norm")

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        types: Int[Array, "B T"],
        positions: Int[Array, "B T"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        """Embeds; without `positions` the tokens stand at 0, 1, ..., T - 1."""
        if positions is None:
            positions = jnp.arange(tokens.shape[1], dtype=tokens.dtype)[None]
        # A model of one type reads both texts of a pair as the same.
        types = jnp.minimum(types, self.type_vocab_size - 1)
        summed = self.token(tokens) + self.position(positions) + self.type(types)
        hidden = self.norm(summed)
        if train and self.config.dropout:
            hidden = drop_units(hidden, self.make_rng("dropout"), self.config.dropout)
        return constrain(hidden, BATCH_AXES, None, None)


class TokenEmbeddings(nn.Module):
    """The sum of token and position embeddings, then dropout.

    Source: Radford et al. 2018, section 3.1, https://openai.com/index/language-unsupervised
    """

    config: TransformerConfig
    vocab_size: int
    maximum_positions: int

    def setup(self):
        """Makes the two tables."""
        self.token = Embedding(self.config, self.vocab_size, row_axis="tensor")
        self.position = Embedding(self.config, self.maximum_positions)

    def __call__(
        self, tokens: Int[Array, "B T"], positions: Int[Array, "B T"], *, train: bool = False
    ) -> Float[Array, "B T D"]:
        """Embeds."""
        hidden = self.token(tokens) + self.position(positions)
        if train and self.config.dropout:
            hidden = drop_units(hidden, self.make_rng("dropout"), self.config.dropout)
        return constrain(hidden, BATCH_AXES, None, None)


class PatchEmbedding(nn.Module):
    """Cuts images into patches and puts each through one linear layer: a convolution whose stride is its size."""

    config: TransformerConfig
    patch_size: int

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"] | Float[Array, "B T F"]) -> Float[Array, "B T D"]:
        """The patches of each image, row by row; or patches that were cut before."""
        side, is_cut = self.patch_size, images.ndim == 3
        channels = images.shape[-1] // side**2 if is_cut else images.shape[-1]
        init = nn.initializers.lecun_normal() if self.config.initializer == "xavier" else initializer(self.config)
        kernel = self.param("kernel", init, (side, side, channels, self.config.width), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.config.width,), jnp.float32)
        dtype = compute_dtype(self.config)
        return linear(
            images.astype(dtype) if is_cut else cut_patches(images.astype(dtype), side),
            kernel.astype(dtype).reshape(-1, self.config.width),
            bias.astype(dtype),
        )


def cut_patches(images: Values, side: int) -> Values:
    """B H W C -> B T F: the values of the pixels of each patch, row by row; F = side x side x C."""
    batch, height, width, channels = images.shape
    patches = images.reshape(batch, height // side, side, width // side, side, channels)
    return patches.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, side * side * channels)


def join_patches(patches: Values, rows: int, columns: int, side: int) -> Values:
    """B T F -> B H W C: the images whose patches these are: the inverse of `cut_patches`."""
    images = patches.reshape(len(patches), rows, columns, side, side, -1).transpose(0, 1, 3, 2, 4, 5)
    return images.reshape(len(patches), rows * side, columns * side, -1)


class PackedPatches(NamedTuple):
    """Patches of several images in a row; each image is its class token and registers, where there are any, then its
    patches, row by row."""

    patches: Float[Array, "B T F"]  # values of the pixels of each, as `cut_patches` gives them
    segments: Int[Array, "B T"]  # 1, 2, ... in the images, 0 at padding
    front: Int[Array, "B T"]  # 1, 2, ... at the class token and registers, 0 at patches and padding
    places: Int[Array, "B T 2"]  # row and column of each patch in its own image
    grids: Int[Array, "B T 2"]  # patches of its image, down and across; 1 or more, also where there is none
    starts: Int[Array, "B S"]  # first position of each image


class ImageEmbeddings(nn.Module):
    """Patches with their positions, behind a class token and registers where there are any; then dropout.

    Packed patches stand where those of an image of their grid would: fixed waves by their row and column, a learned
    table interpolated to the grid as for an image of another size.

    Source: Dosovitskiy et al. 2020, eq. 1, https://arxiv.org/abs/2010.11929; registers from Darcet et al. 2023,
      https://arxiv.org/abs/2309.16588: they stand between the class token and the patches, and have no position.
    """

    config: TransformerConfig
    patch_size: int
    grid: tuple[int, int]  # patches of an image, down and across
    positions: Literal["learned", "sincos"]
    class_token: bool
    registers: int

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W C"] | PackedPatches, *, train: bool = False
    ) -> Float[Array, "B T D"]:
        """Embeds."""
        config, tokens = self.config, int(self.class_token)
        pixels = images.patches if isinstance(images, PackedPatches) else images
        patches = PatchEmbedding(config, self.patch_size, name="patch")(pixels)
        extra = []
        if self.positions == "learned":
            rows = tokens + self.grid[0] * self.grid[1]
            table = self.param("position", nn.initializers.normal(0.02), (1, rows, config.width))
        else:
            table = jnp.pad(sincos_positions(*self.grid, config.width), ((tokens, 0), (0, 0)))[None]
        table = table.astype(patches.dtype)
        if self.class_token:
            extra.append(self.param("class_token", nn.initializers.zeros_init(), (1, 1, config.width)) + table[:, :1])
        if self.registers:
            init = nn.initializers.truncated_normal(0.02)
            extra.append(self.param("registers", init, (1, self.registers, config.width)))
        extra = [x.astype(patches.dtype) for x in extra]
        if isinstance(images, PackedPatches):
            hidden = patches + self.packed_positions(table[0, tokens:], images)
            for number, vector in enumerate(jnp.concatenate(extra, axis=1)[0] if extra else (), start=1):
                hidden = jnp.where((images.front == number)[:, :, None], vector[None, None], hidden)
        else:
            front = [jnp.broadcast_to(x, (len(patches), *x.shape[1:])) for x in extra]
            hidden = jnp.concatenate([*front, patches + table[:, tokens:]], axis=1)
        if train and config.dropout:
            hidden = drop_units(hidden, self.make_rng("dropout"), config.dropout)
        return constrain(hidden, BATCH_AXES, None, None)

    def packed_positions(self, table: Float[Array, "R D"], packed: PackedPatches) -> Float[Array, "B T D"]:
        """The position of each patch in its own image; `table` is that of the patches of the model's own grid."""
        places, grids = packed.places, packed.grids
        if self.positions == "sincos":
            waves = jnp.asarray(sincos_waves(places.shape[1], self.config.width // 2), table.dtype)
            return jnp.concatenate([waves[places[..., 1]], waves[places[..., 0]]], axis=2)
        down, across = (bicubic_weights(places[..., i], grids[..., i], self.grid[i]) for i in range(2))
        weights = down[:, :, :, None] * across[:, :, None, :]
        return matmul(weights.reshape(*places.shape[:2], -1).astype(table.dtype), table)
