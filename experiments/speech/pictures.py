"""What a recogniser looks at while it writes: its attention over the spectrogram, as a picture.

Axes: F frames, M mel bands, T pieces of a transcript, S positions of the encoder.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Float, PyTree

from core_jax.encoder_decoder import EncoderDecoder
from core_jax.pictures import rows_over_time_picture
from vit_jax.log_mel import FRAMES_A_SECOND


def cross_attention(model: EncoderDecoder, params: PyTree, example: dict[str, Any]) -> Float[np.ndarray, "T S"]:
    """How much each piece of a transcript looks at each position, the mean over the heads of the last layer.

    Args:
      model: whose layers are not scanned.
      params: of it.
      example: {"spectrograms": [F, M], "tokens": [T], "segments": [T]} of one recording.
    """
    inputs = [jnp.asarray(example[name])[None] for name in ("spectrograms", "tokens", "segments")]
    decoder: Any = model.decoder

    @jax.jit
    def look(params):
        found: Any
        _, found = model.apply({"params": params}, *inputs, mutable=["intermediates"])
        block = found["intermediates"]["decoder"]["decoder"][f"block_{decoder.config.depth - 1}"]
        return jnp.mean(block["cross_attention"]["attention_weights"][0][0].astype(jnp.float32), axis=0)

    return np.asarray(look(params))


def draw_attention(
    path: epath.PathLike, example: dict[str, Any], weights: Float[np.ndarray, "T S"], pieces: Sequence[str]
) -> None:
    """Draws a spectrogram, and below it where in it each piece was heard.

    Args:
      path: of the picture, .png.
      example: of the recording, as for `cross_attention`, with its number of "frames".
      weights: of that function.
      pieces: that the model is to write after each of the tokens.
    """
    frames = int(example["frames"])
    shown = np.flatnonzero(example["weights"]["next"])
    positions = -(-frames * weights.shape[1] // len(example["spectrograms"]))
    rows_over_time_picture(
        path,
        example["spectrograms"][:frames].T,
        weights[shown, :positions],
        [pieces[int(place)] for place in shown],
        seconds=frames / FRAMES_A_SECOND,
    )
