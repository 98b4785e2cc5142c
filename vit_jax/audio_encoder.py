"""The encoder of Whisper: two convolutions over time, sinusoidal positions, Transformer blocks.

Axes: B batch, F frames of a spectrogram, M mel bands, T = F / 2 positions, D width.
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from core_jax.config import TransformerConfig, require
from core_jax.grid_positions import sincos_waves
from core_jax.layers import compute_dtype, gelu, initializer
from core_jax.transformer import Stack

STRIDE = 2  # frames of a position
KERNEL = 3  # frames that a convolution looks at


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioEncoderConfig(TransformerConfig):
    """An encoder of spectrograms, pictures of which one axis is time."""

    norm: Literal["pre", "post"] = "pre"  # side of a residual branch on which LayerNorm sits
    norm_epsilon: float = 1e-5  # added to the variance in LayerNorm
    gelu: Literal["erf", "tanh"] = "erf"  # exact GELU, or its tanh approximation
    dropout: float = 0.0  # probability of dropping a unit of each branch's output
    attention_dropout: float = 0.0  # probability of dropping an attention weight
    mel_bands: int = 80  # of the spectrogram
    maximum_positions: int = 1500  # rows of the position table: 30 seconds

    def __post_init__(self):
        super().__post_init__()
        for name in ("mel_bands", "maximum_positions"):
            require(getattr(self, name) > 0, f"--{name}={getattr(self, name)}: expected a positive number")

    @property
    def frames(self) -> int:
        """Frames of a full window."""
        return self.maximum_positions * STRIDE


class Convolution(nn.Module):
    """A convolution over time that sees a frame before and one after each."""

    config: TransformerConfig
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "B F C"]) -> Float[Array, "B _ D"]:
        """Transforms frames; with a stride of 2 every second is left."""
        config, dtype = self.config, compute_dtype(self.config)
        kernel = self.param("kernel", initializer(config), (KERNEL, x.shape[-1], config.width), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (config.width,), jnp.float32)
        around = [(KERNEL // 2, KERNEL // 2)]
        layout = ("NWC", "WIO", "NWC")
        y = jax.lax.conv_general_dilated(
            x.astype(dtype), kernel.astype(dtype), (self.stride,), around, dimension_numbers=layout
        )
        return y + bias.astype(dtype)[None, None]


class AudioEncoder(nn.Module):
    """What is heard, at each position.

    Source: Radford et al. 2022, section 2.2, https://arxiv.org/abs/2212.04356
    """

    config: AudioEncoderConfig

    @nn.compact
    def __call__(
        self, spectrogram: Float[Array, "B F M"], frames: Int[Array, " B"] | None = None, *, train: bool = False
    ) -> Float[Array, "B T D"]:
        """The hidden states of the last layer.

        Args:
          spectrogram: of `vit_jax.log_mel`; any even number of frames up to those of a full window.
          frames: of each row that are heard; the states of those behind mean nothing. By default all are, also silence
            behind a recording, as in Whisper.
          train: whether dropout is on.
        """
        config = self.config

        def heard(x: Float[Array, "B F C"]) -> Float[Array, "B F C"]:  # an end is the same, wherever it comes
            return x if frames is None else x * is_heard(frames, x.shape[1])[..., None].astype(x.dtype)

        x = heard(gelu(config, Convolution(config, name="conv_1")(heard(spectrogram))))
        x = gelu(config, Convolution(config, STRIDE, name="conv_2")(x))
        rows, width = config.maximum_positions, config.width
        table = self.param("positions", lambda _, *shape: jnp.asarray(sincos_waves(*shape)), rows, width)
        positions = jax.lax.stop_gradient(table)[None, : x.shape[1]]  # they are not learnt
        segments = None if frames is None else is_heard(positions_of(frames), x.shape[1]).astype(jnp.int32)
        return Stack(config, name="encoder")(x + positions.astype(x.dtype), segments, train=train)


def is_heard(counts: Int[Array, " B"], length: int) -> Bool[Array, "B {length}"]:
    """Which frames or positions of each row hold a recording: the first ones, so many."""
    return jnp.arange(length)[None] < counts[:, None]


def positions_of(frames: Int[Array, " B"]) -> Int[Array, " B"]:
    """The number of positions of so many frames."""
    return -(-frames // STRIDE)
