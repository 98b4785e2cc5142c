"""Where in a recording an encoder of sound listens, and which letters it hears there, as a picture.

Axes: N rows, T positions.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import PyTree

from bert_jax.letters import read_out
from core_jax.pictures import rows_over_time_picture
from vit_jax.audio_encoder import STRIDE
from vit_jax.audio_labels import AudioForLabels, heard_where
from vit_jax.ctc import best_path
from vit_jax.log_mel import FRAMES_A_SECOND

LISTENING = "attention"  # name of the row that is rolled out over all layers


def draw_hearing(
    path: epath.PathLike, model: AudioForLabels, params: PyTree, example: dict[str, Any], outputs: Sequence[str]
) -> None:
    """Draws a spectrogram, below it how much is heard of each place, and how probable each letter that is heard is.

    Args:
      path: of the picture, .png.
      model: of classes or letters.
      params: of it.
      example: with spectrograms and frames of one recording.
      outputs: names of the classes or letters.
    """
    inputs = jnp.asarray(example["spectrograms"])[None], jnp.asarray(example["frames"])[None]
    frames = int(example["frames"])
    positions = -(-frames // STRIDE)
    attention = np.asarray(jax.jit(lambda p: heard_where(model, p, *inputs))(params))[:, :positions]
    rows: list[np.ndarray] = [attention]
    names: list[str] = [LISTENING]
    if model.head == "position":
        logits: Any = jax.jit(lambda p: model.apply({"params": p}, *inputs))(params)[0, :positions]
        shares = np.asarray(jax.nn.softmax(logits.astype(jnp.float32)))
        letters = list(dict.fromkeys(best_path(np.asarray(logits)).tolist()))  # in the order in which they are heard
        rows.append(shares[:, letters].T)
        spelt = [read_out([letter], outputs) for letter in letters]
        names += [letter if letter.strip() else "space" for letter in spelt]
    rows_over_time_picture(
        path, example["spectrograms"][:frames].T, np.concatenate(rows), names, seconds=frames / FRAMES_A_SECOND
    )
