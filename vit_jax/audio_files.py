"""Sound in files -> samples of one channel at one rate.

Axes: N samples.
"""

import fractions
import pathlib

import numpy as np
import soundfile
from jaxtyping import Float32
from scipy import signal

from core_jax.errors import UserError

RATE = 16_000  # samples a second that speech models hear
LOWEST, HIGHEST = 4_000, 192_000  # rates that a file may have
CUT = "(should be"  # how libsndfile remarks on a header that promises more than the file holds
QUIETEST = 1e-4  # largest sample of a recording in which there is nothing


def read_audio(path: str | pathlib.Path, rate: int = RATE) -> Float32[np.ndarray, " N"]:
    """Reads a recording: WAV, FLAC, Ogg, MP3 and what else libsndfile knows.

    Args:
      path: of the file.
      rate: samples a second that are wanted.
    Returns:
      Samples between -1 and 1, the mean of the channels, resampled where the file has another rate.
    Raises:
      UserError: there is no such file, it holds no sound, is damaged, or has a rate that is none of sound.
    """
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"there is no file {path}; expected a recording, such as clip.wav, clip.flac or clip.ogg")
    try:
        with soundfile.SoundFile(file) as sound:
            promised, found_rate, is_cut = sound.frames, sound.samplerate, CUT in sound.extra_info
            samples = sound.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as sound ({error}); expected WAV, FLAC, Ogg or MP3. Raw samples have no header: "
            "write them into a WAV file first"
        ) from error
    if not len(samples) or len(samples) < promised or is_cut:
        raise UserError(f"{path} is cut off or empty: {len(samples):,} samples are there; fetch it again")
    if not LOWEST <= found_rate <= HIGHEST:
        raise UserError(f"{path} has {found_rate} samples a second; expected {LOWEST} to {HIGHEST}")
    if not np.isfinite(samples).all():
        raise UserError(f"{path} holds samples that are no numbers; write it anew")
    return resample(samples.mean(axis=1), found_rate, rate)


def resample(samples: Float32[np.ndarray, " N"], found: int, wanted: int) -> Float32[np.ndarray, " M"]:
    """Samples at another rate; frequencies that the lower one cannot have are filtered out."""
    if found == wanted:
        return samples
    ratio = fractions.Fraction(wanted, found)
    return signal.resample_poly(samples, ratio.numerator, ratio.denominator).astype(np.float32)


def is_silent(samples: Float32[np.ndarray, " N"]) -> bool:
    """Whether there is nothing to hear."""
    return not len(samples) or float(np.abs(samples).max()) < QUIETEST
