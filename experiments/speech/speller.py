"""Spells what is said in recordings, window by window, with an encoder that was trained with CTC.

Axes: B windows, F frames, M mel bands, T positions, K outputs.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32, PyTree

from bert_jax.letters import read_out
from core_jax.sharding import batch_parts, batch_sharding
from vit_jax.audio_clips import spectrogram
from vit_jax.audio_encoder import STRIDE
from vit_jax.audio_files import read_audio
from vit_jax.audio_labels import AudioForLabels
from vit_jax.ctc import best_path
from vit_jax.log_mel import HOP


class Speller:
    """One compiled function for every recording."""

    def __init__(self, model: AudioForLabels, letters: Sequence[str], mesh: Mesh, batch_size: int):
        """Compiles nothing yet.

        Args:
          model: whose outputs are letters.
          letters: in the order of the outputs.
          mesh: where it is computed.
          batch_size: windows that are computed together, at least.
        """
        self._model, self._letters, self._mesh = model, letters, mesh
        parts = batch_parts(mesh)
        self._rows = -(-batch_size // parts) * parts
        self._apply = jax.jit(lambda params, *inputs: model.apply({"params": params}, *inputs))

    def spell(self, params: PyTree, paths: Sequence[str]) -> list[str]:
        """What is said in each recording; long ones are cut into windows, wherever a word may be.

        Args:
          params: of the model.
          paths: of the recordings.
        Raises:
          UserError: one cannot be read.
        """
        config, owners = self._model.config, []
        windows: list[tuple[Float32[np.ndarray, "F M"], int]] = []
        for number, path in enumerate(paths):
            samples, length = read_audio(path), config.frames * HOP
            for start in range(0, max(len(samples), 1), length):
                windows.append(spectrogram(samples[start : start + length], config.frames, config.mel_bands))
                owners.append(number)
        texts: list[list[str]] = [[] for _ in paths]
        for start in range(0, len(windows), self._rows):
            part = windows[start : start + self._rows]
            for place, logits in enumerate(self._logits(params, part)):
                texts[owners[start + place]].append(read_out(best_path(logits).tolist(), self._letters))
        return [" ".join(" ".join(parts).split()) for parts in texts]

    def _logits(self, params, part) -> list[Any]:
        """Of the positions that are heard, of each window."""
        missing = self._rows - len(part)
        sounds = np.stack([sound for sound, _ in part] + [part[0][0]] * missing)
        frames = np.array([count for _, count in part] + [1] * missing, np.int32)
        with jax.set_mesh(self._mesh):
            placed = jax.device_put((sounds, frames), batch_sharding(self._mesh))
            found = np.asarray(jax.device_get(self._apply(params, *placed)), np.float32)
        return [logits[: -(-count // STRIDE)] for logits, (_, count) in zip(found, part, strict=False)]
