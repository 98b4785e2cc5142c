"""An encoder of spectrograms with a layer on top that names what is heard: of a whole recording, or at each position.

Axes: B recordings, F frames of a spectrogram, M mel bands, T positions, L layers, K outputs.
"""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from core_jax.layers import dense
from vit_jax.attention_rollout import roll_out, stacked_weights
from vit_jax.audio_encoder import STRIDE, AudioEncoder, AudioEncoderConfig, is_heard, positions_of

Head = Literal["recording", "position"]


class AudioForLabels(nn.Module):
    """Logits of a recording, from the mean over all that is heard of it; or at each position, for CTC."""

    config: AudioEncoderConfig
    head: Head
    outputs: int  # K

    @nn.compact
    def __call__(
        self, spectrogram: Float[Array, "B F M"], frames: Int[Array, " B"], *, train: bool = False
    ) -> Float[Array, "B *T K"]:
        """The logits.

        Args:
          spectrogram: of `vit_jax.log_mel`, an even number of frames.
          frames: of each row that hold a recording, at least 1; what lies behind is not heard.
          train: whether dropout is on.
        """
        x = AudioEncoder(self.config, name="encoder")(spectrogram, frames, train=train)
        if self.head == "recording":
            heard = is_heard(positions_of(frames), x.shape[1])[..., None].astype(jnp.float32)
            x = (jnp.sum(x.astype(jnp.float32) * heard, axis=1) / jnp.sum(heard, axis=1)).astype(x.dtype)
        return dense(self.config, self.outputs, "classifier")(x)


def initial_audio_params(model: AudioForLabels) -> Callable[[Key[Array, ""]], PyTree]:
    """key -> fresh parameters of a model."""

    def init(key: Key[Array, ""]) -> PyTree:
        inputs = jnp.zeros((1, STRIDE, model.config.mel_bands)), jnp.full((1,), STRIDE)
        return model.init(key, *inputs)["params"]

    return init


def heard_where(
    model: AudioForLabels, params: PyTree, spectrogram: Float[Array, "B F M"], frames: Int[Array, " B"]
) -> Float[Array, "B T"]:
    """How much each position of a recording has flowed into the others, by attention rolled out over all layers.

    Args:
      model, params: of the encoder.
      spectrogram, frames: as the model takes them.
    Returns:
      The mean over all positions that are heard; all add up to 1, and those behind the recording are 0.
    """
    _, found = model.apply({"params": params}, spectrogram, frames, mutable=["intermediates"])
    layers: Any = found["intermediates"]["encoder"]["encoder"]
    flow = roll_out(stacked_weights(layers, model.config))
    heard = is_heard(positions_of(frames), flow.shape[-1]).astype(flow.dtype)
    return jnp.einsum("bt,bts->bs", heard, flow) * heard / jnp.sum(heard, axis=1, keepdims=True)
