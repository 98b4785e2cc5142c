"""Log-mel spectrograms: how loud each band of pitches is, a hundred times a second.

Axes: N samples, F frames, K frequencies of a Fourier transform, M mel bands.
Source: Radford et al. 2022, section 2.2, https://arxiv.org/abs/2212.04356; bands as in Slaney's Auditory Toolbox.
"""

import functools

import numpy as np
from jaxtyping import Float32, Float64

from vit_jax.audio_files import RATE

WINDOW = 400  # samples of a Fourier transform, 25 ms
HOP = 160  # samples between two of them, 10 ms
FRAMES_A_SECOND = RATE // HOP
RANGE = 8.0  # powers of ten between the loudest band of a recording and what counts as silence
FLOOR = 1e-10  # of the energies
LINEAR_HERTZ = 1000.0  # below, mels are linear in the frequency; above, in its logarithm
MELS_A_HERTZ = 3 / 200
LOG_STEP = np.log(6.4) / 27  # of the frequency's logarithm for a mel above


def log_mel(samples: Float32[np.ndarray, " N"], bands: int) -> Float32[np.ndarray, "F M"]:
    """The spectrogram of a recording as Whisper hears it.

    Args:
      samples: of RATE a second, one window or more.
      bands: M.
    Returns:
      (log10 of each band's energy + 4) / 4, no lower than 8 powers of ten under the loudest; a frame for each HOP.
    """
    padded = np.pad(samples, WINDOW // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][: len(samples) // HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    energies = np.abs(np.fft.rfft(frames * hann, axis=1)) ** 2
    logs = np.log10(np.maximum(energies @ mel_filters(bands), FLOOR))
    return ((np.maximum(logs, logs.max() - RANGE) + 4.0) / 4.0).astype(np.float32)


@functools.cache
def mel_filters(bands: int) -> Float64[np.ndarray, "K M"]:
    """What each frequency adds to each band: triangles of equal area, evenly spaced in mels up to half the rate."""
    frequencies = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    corners = _hertz(np.linspace(0, _mels(RATE / 2), bands + 2))
    rising = (frequencies[:, None] - corners[None, :-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[None, 2:] - frequencies[:, None]) / (corners[2:] - corners[1:-1])
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (corners[2:] - corners[:-2]))


def _mels(hertz: float) -> float:
    if hertz < LINEAR_HERTZ:
        return hertz * MELS_A_HERTZ
    return LINEAR_HERTZ * MELS_A_HERTZ + float(np.log(hertz / LINEAR_HERTZ)) / LOG_STEP


def _hertz(mels: Float64[np.ndarray, " C"]) -> Float64[np.ndarray, " C"]:
    bend = LINEAR_HERTZ * MELS_A_HERTZ
    return np.where(mels < bend, mels / MELS_A_HERTZ, LINEAR_HERTZ * np.exp(LOG_STEP * (mels - bend)))
