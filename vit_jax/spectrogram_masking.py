"""SpecAugment: bands and stretches of a spectrogram are hidden in training.

Axes: F frames, M mel bands.
Source: Park et al. 2019, sections 2 and 3, https://arxiv.org/abs/1904.08779. Time is not warped, which brings least
there (table 6).
"""

import dataclasses

import numpy as np
from jaxtyping import Float32

from core_jax.config import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """What of a spectrogram is hidden in training; of 80 bands, the policy LD of the paper."""

    frequency_masks: int = 2  # bands of pitches that are hidden; 0: none
    frequency_mask_bands: int = 27  # mel bands of one at most
    time_masks: int = 2  # stretches of time that are hidden; 0: none
    time_mask_frames: int = 100  # frames, hundredths of a second, of one at most
    time_mask_share: float = 0.2  # of a recording that one hides at most

    def __post_init__(self):
        for name in ("frequency_masks", "frequency_mask_bands", "time_masks", "time_mask_frames"):
            require(getattr(self, name) >= 0, f"--{name}={getattr(self, name)}: expected 0 or more")
        share = self.time_mask_share
        require(0 <= share <= 1, f"--time_mask_share={share}: expected a share, from 0 to 1")


def mask_spectrogram(
    spectrogram: Float32[np.ndarray, "F M"], frames: int, config: MaskingConfig, random: np.random.Generator
) -> Float32[np.ndarray, "F M"]:
    """The spectrogram with some of it set to its mean.

    Args:
      spectrogram: of `log_mel`.
      frames: that hold the recording; the rest is silence, and stays as it is.
      config: how much is hidden.
      random: of this recording in this epoch.
    """
    hidden = np.zeros(spectrogram.shape, bool)
    for _ in range(config.frequency_masks):
        start, end = _stretch(spectrogram.shape[1], config.frequency_mask_bands, random)
        hidden[:frames, start:end] = True
    for _ in range(config.time_masks):
        start, end = _stretch(frames, min(config.time_mask_frames, int(config.time_mask_share * frames)), random)
        hidden[start:end] = True
    return np.where(hidden, spectrogram[:frames].mean(), spectrogram)


def _stretch(places: int, longest: int, random: np.random.Generator) -> tuple[int, int]:
    """Start and end of a stretch of 0 .. longest places."""
    length = int(random.integers(min(longest, places) + 1))
    start = int(random.integers(places - length + 1))
    return start, start + length
