"""ViT's sizes, each with its source."""

import dataclasses
import re
from typing import Literal

from core_jax.config import TransformerConfig, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class VitConfig(TransformerConfig):
    """ViT: a Transformer encoder over the patches of an image."""

    norm: Literal["pre", "post"] = "pre"  # side of a residual branch on which LayerNorm sits
    norm_epsilon: float = 1e-6  # added to the variance in LayerNorm
    gelu: Literal["erf", "tanh"] = "tanh"  # the original code's tanh approximation, or exact GELU
    dropout: float = 0.0  # probability of dropping a unit of the embeddings and of each branch's output
    attention_dropout: float = 0.0  # probability of dropping an attention weight
    # what kernels start from: uniform by their fans (Glorot and Bengio 2010), or a truncated normal
    initializer: Literal["normal", "xavier"] = "xavier"
    image_size: str = "224"  # pixels of a side, or HEIGHTxWIDTH
    channels: int = 3  # colours of a pixel
    patch_size: int = 16  # pixels of a patch's side
    positions: Literal["learned", "sincos"] = "learned"  # of the patches: a table, or fixed waves
    class_token: bool = True  # whether a token that is no patch stands in front
    registers: int = 0  # further tokens that are no patches
    # what stands for the image: the class token's state, the mean of the patches, both side by side (as DINOv2 is
    # classified), or what one learnt query reads
    pooling: Literal["token", "mean", "token_and_mean", "attention"] = "token"
    representation: bool = False  # whether a linear layer with tanh stands before the classifier

    def __post_init__(self):
        super().__post_init__()
        match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", self.image_size)
        require(match is not None, f"--image_size={self.image_size}: expected pixels, such as 224 or 224x320")
        for name in ("channels", "patch_size"):
            require(getattr(self, name) > 0, f"--{name}={getattr(self, name)}: expected a positive number")
        require(self.registers >= 0, f"--registers={self.registers}: expected 0 or more")
        for size in (self.height, self.width_of_image):
            below = max(size // self.patch_size, 1) * self.patch_size
            require(
                size % self.patch_size == 0,
                f"--image_size={self.image_size} does not divide into patches of --patch_size={self.patch_size}: "
                f"use {below} or {below + self.patch_size}",
            )
        require(
            not self.pooling.startswith("token") or self.class_token,
            f"--pooling={self.pooling} needs --class_token=True; without one use --pooling=mean or attention",
        )
        require(
            self.positions == "learned" or self.width % 4 == 0,
            f"--positions=sincos needs a --width that 4 divides, not {self.width}",
        )

    @property
    def height(self) -> int:
        """Pixels of an image from top to bottom."""
        return int(self.image_size.split("x")[0])

    @property
    def width_of_image(self) -> int:
        """Pixels of an image from left to right."""
        return int(self.image_size.split("x")[-1])

    @property
    def grid(self) -> tuple[int, int]:
        """Patches of an image, down and across."""
        return self.height // self.patch_size, self.width_of_image // self.patch_size

    @property
    def tokens(self) -> int:
        """Positions of an image in the encoder."""
        return int(self.class_token) + self.registers + self.grid[0] * self.grid[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaeConfig:
    """Masked autoencoding: what is hidden, and the decoder that fills it in."""

    mask_share: float = 0.75  # of the patches, that are hidden
    decoder_width: int = 512  # size of the decoder's hidden states; its MLP is four times as wide
    decoder_depth: int = 8  # layers of the decoder
    decoder_heads: int = 16  # attention heads of the decoder
    normalised_pixels: bool = True  # whether the pixels of each patch are predicted less their mean, by their deviation

    def __post_init__(self):
        require(0 < self.mask_share < 1, f"--mask_share={self.mask_share}: expected a share, more than 0 and below 1")
        for name in ("decoder_width", "decoder_depth", "decoder_heads"):
            require(getattr(self, name) > 0, f"--{name}={getattr(self, name)}: expected a positive number")
        require(
            self.decoder_width % self.decoder_heads == 0,
            f"--decoder_width={self.decoder_width} does not divide into --decoder_heads={self.decoder_heads}",
        )
        require(self.decoder_width % 4 == 0, f"--decoder_width={self.decoder_width}: expected a multiple of 4")

    def decoder(self, encoder: VitConfig) -> VitConfig:
        """The sizes of the decoder of an encoder; all else is as there."""
        return dataclasses.replace(
            encoder,
            width=self.decoder_width,
            depth=self.decoder_depth,
            heads=self.decoder_heads,
            mlp_width=4 * self.decoder_width,
            stochastic_depth=0.0,
        )


# Tiny and small: Touvron et al. 2020 (DeiT), https://arxiv.org/abs/2012.12877, table 1, as Steiner et al. 2021 use
# them; base, large and huge: Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929, table 1.
TINY = VitConfig(width=192, depth=12, heads=3, mlp_width=768)
SMALL = VitConfig(width=384, depth=12, heads=6, mlp_width=1536)
BASE = VitConfig(width=768, depth=12, heads=12, mlp_width=3072)
LARGE = VitConfig(width=1024, depth=24, heads=16, mlp_width=4096)
HUGE = VitConfig(width=1280, depth=32, heads=16, mlp_width=5120)
SIZES = {"ti": TINY, "s": SMALL, "b": BASE, "l": LARGE, "h": HUGE}
