"""The encoder of Whisper: two convolutions over time, sinusoidal positions, Transformer blocks.

Axes: B batch, F frames of a spectrogram, M mel bands, T = F / 2 positions, D width.
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from core_jax.config import TransformerConfig, require
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


def sinusoids(positions: int, width: int) -> Float32[np.ndarray, "T D"]:
    """Sines, then cosines, of wavelengths from 2 pi to 20,000 pi. Source: Vaswani et al. 2017, section 3.5."""
    rates = np.exp(-np.log(10_000) / (width // 2 - 1) * np.arange(width // 2))
    angles = np.arange(positions)[:, None] * rates[None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


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
    def __call__(self, spectrogram: Float[Array, "B F M"], *, train: bool = False) -> Float[Array, "B T D"]:
        """The hidden states of the last layer.

        Args:
          spectrogram: of `vit_jax.log_mel`; any even number of frames up to those of a full window.
          train: whether dropout is on.
        """
        config = self.config
        x = gelu(config, Convolution(config, name="conv_1")(spectrogram))
        x = gelu(config, Convolution(config, STRIDE, name="conv_2")(x))
        rows, width = config.maximum_positions, config.width
        table = self.param("positions", lambda _, *shape: jnp.asarray(sinusoids(*shape)), rows, width)
        positions = jax.lax.stop_gradient(table)[None, : x.shape[1]]  # they are not learnt
        return Stack(config, name="encoder")(x + positions.astype(x.dtype), train=train)
