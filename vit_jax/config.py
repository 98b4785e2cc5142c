"""ViT's sizes, each with its source."""

import dataclasses
import re
from typing import Literal

from core_jax.config import TransformerConfig, require

STEM_WIDTH = 64  # channels behind the first convolution of ResNet-50, and of every published hybrid
STEM_GROUPS = 32  # of channels that GroupNorm normalises together in a stem


def stages_of(stem: str) -> tuple[int, ...]:
    """Units of each stage of a `VitConfig.stem`; none where it is its root alone, or where there is no stem."""
    return tuple(int(units) for units in stem.split(",") if units.isdigit())


def stride_of(stem: str) -> int:
    """Pixels between neighbouring places of the feature map of a `VitConfig.stem`; 1 without one."""
    return 4 * 2 ** max(len(stages_of(stem)) - 1, 0) if stem else 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class VitConfig(TransformerConfig):
    """ViT: a Transformer encoder over the patches of an image."""

    norm: Literal["pre", "post"] = "pre"  # side of a residual branch on which LayerNorm sits
    norm_epsilon: float = 1e-6  # added to the variance in LayerNorm
    gelu: Literal["erf", "tanh"] = "tanh"  # the original code's tanh approximation, or exact GELU
    dropout: float = 0.0  # probability of dropping a unit of the embeddings and of each branch's output
    attention_dropout: float = 0.0  # probability of dropping an attention weight
    # what kernels start from: uniform by their fans (Glorot and Bengio 2010), or a truncated normal
    initializer: Literal["normal", "xavier", "gpt2"] = "xavier"
    image_size: str = "224"  # pixels of a side, or HEIGHTxWIDTH
    channels: int = 3  # colours of a pixel
    patch_size: int = 16  # pixels of a patch's side; behind a --stem, places of its feature map
    # a ResNet whose feature map the patches are cut from (hybrid ViT): units of each of its stages, such as 3,4,9, or
    # root: its first convolution and pooling alone; empty: there is none, patches are cut from the image
    stem: str = ""
    # channels behind the stem's first convolution; behind its stages there are 4, 8, 16, ... times as many
    stem_width: int = STEM_WIDTH
    # whose small numbers keep the stem from dividing by zero: those of google-research, or of timm
    stem_epsilons: Literal["google", "timm"] = "google"
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
        stages = re.fullmatch(r"root|[1-9]\d*(,[1-9]\d*)*|", self.stem)
        require(
            stages is not None, f"--stem={self.stem}: expected units of each stage, such as 3,4,9; or root; or nothing"
        )
        require(
            self.stem_width > 0 and self.stem_width % STEM_GROUPS == 0,
            f"--stem_width={self.stem_width}: expected a multiple of {STEM_GROUPS}, such as 64",
        )
        require(not self.causal, "--causal=True: the patches of an image have no order; leave it out")
        for name in ("channels", "patch_size"):
            require(getattr(self, name) > 0, f"--{name}={getattr(self, name)}: expected a positive number")
        require(self.registers >= 0, f"--registers={self.registers}: expected 0 or more")
        for size in (self.height, self.width_of_image):
            patch = self.stem_stride * self.patch_size
            below = max(size // patch, 1) * patch
            unit = f" places, each {self.stem_stride} pixels of --stem={self.stem}" if self.stem else ""
            require(
                self._places(size) % self.patch_size == 0,
                f"--image_size={self.image_size} does not divide into patches of --patch_size={self.patch_size}{unit}: "
                f"use {below} or {below + patch}",
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
    def stem_stages(self) -> tuple[int, ...]:
        """Units of each stage of the stem."""
        return stages_of(self.stem)

    @property
    def stem_stride(self) -> int:
        """Pixels between neighbouring places of what patches are cut from."""
        return stride_of(self.stem)

    def _places(self, pixels: int) -> int:
        """Places along a side of what patches are cut from; a stem pads what its strides do not divide."""
        return -(-pixels // self.stem_stride)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches of an image, down and across."""
        down, across = self._places(self.height), self._places(self.width_of_image)
        return down // self.patch_size, across // self.patch_size

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
        """The sizes of the decoder of an encoder; all else is as there.

        Raises:
          UserError: the encoder has a stem, through which hidden patches could be seen.
        """
        require(
            not encoder.stem,
            f"--stem={encoder.stem} mixes neighbouring patches before any can be hidden from --objective=mae: use "
            "--objective=supervised, or leave --stem out",
        )
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
