"""Sound in files -> samples of one channel at one rate.

Axes: N samples.
"""

import contextlib
import fractions
import os
import pathlib
import re
from collections.abc import Iterator

import numpy as np
import soundfile
from jaxtyping import Float32
from scipy import signal

from core_jax.errors import UserError

RATE = 16_000  # samples a second that speech models hear
LOWEST, HIGHEST = 4_000, 192_000  # rates that a file may have
CUT = re.compile(r": (\d+) \(should be")  # how libsndfile remarks on a header that promises more than the file holds
STREAMED = str(2**32 - 1)  # size in headers that are written before it is known, as by ffmpeg into a pipe
PAGE, PAGE_HEADER, LONGEST_PAGE = b"OggS", 27, 27 + 255 + 255 * 255  # of an Ogg file; bytes
BLOCK = 2**20  # samples that are decoded at once
ENDS_STREAM = 4  # flag of its last page
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
    with _opened(path) as sound:
        promised, found_rate = sound.frames, sound.samplerate
        samples = sound.read(dtype="float32", always_2d=True)
        is_cut = _is_cut(path, sound)
    _check_length(path, len(samples), is_cut or len(samples) < promised)
    _check_rate(path, found_rate)
    if not np.isfinite(samples).all():
        raise UserError(f"{path} holds samples that are no numbers; write it anew")
    return resample(samples.mean(axis=1), found_rate, rate)


def whole_seconds(path: str | pathlib.Path) -> float:
    """How long a recording is, once it is known that the file holds all that its header promises.

    Only its ends are read, but for MP3, which must be decoded.

    Args:
      path: of the file.
    Raises:
      UserError: as for `read_audio`, but for samples that are no numbers.
    """
    with _opened(path) as sound:
        count, rate, is_cut = sound.frames, sound.samplerate, _is_cut(path, sound)
        if count and not is_cut and sound.format == "MP3":  # it finds no place without decoding what stands before
            promised, count = count, 0
            while found := len(sound.read(BLOCK, dtype="float32")):
                count += found
            is_cut = count < promised
        elif count and not is_cut and sound.format != "OGG":
            sound.seek(count - 1)
            is_cut = len(sound.read(1)) < 1
    _check_length(path, count, is_cut)
    _check_rate(path, rate)
    return count / rate


def resample(samples: Float32[np.ndarray, " N"], found: int, wanted: int) -> Float32[np.ndarray, " M"]:
    """Samples at another rate; frequencies that the lower one cannot have are filtered out."""
    if found == wanted:
        return samples
    ratio = fractions.Fraction(wanted, found)
    return signal.resample_poly(samples, ratio.numerator, ratio.denominator).astype(np.float32)


def is_silent(samples: Float32[np.ndarray, " N"]) -> bool:
    """Whether there is nothing to hear."""
    return not len(samples) or float(np.abs(samples).max()) < QUIETEST


@contextlib.contextmanager
def _opened(path: str | pathlib.Path) -> Iterator[soundfile.SoundFile]:
    """A recording; what fails while it is open is told as a mistake in the file."""
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"there is no file {path}; expected a recording, such as clip.wav, clip.flac or clip.ogg")
    try:
        with soundfile.SoundFile(file) as sound:
            yield sound
    except (soundfile.LibsndfileError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as sound ({error}): it is damaged or cut off, or no WAV, FLAC, Ogg or MP3. Fetch "
            "it again; raw samples have no header: write them into a WAV file first"
        ) from error


def _is_cut(path, sound):
    """Whether a file ends before what it holds; that of some formats shows only when it is read."""
    if sound.format == "OGG":
        return not _ends_stream(pathlib.Path(path).expanduser())
    return any(promise != STREAMED for promise in CUT.findall(sound.extra_info))


def _ends_stream(file):
    """Whether the last page of an Ogg file is whole, and says that it is the last."""
    with file.open("rb") as opened:
        opened.seek(max(opened.seek(0, os.SEEK_END) - LONGEST_PAGE, 0))
        tail = opened.read()
    page = tail[max(tail.rfind(PAGE), 0) :]
    if not page.startswith(PAGE) or len(page) < PAGE_HEADER:
        return False
    segments = page[PAGE_HEADER : PAGE_HEADER + page[PAGE_HEADER - 1]]
    is_whole = len(page) >= PAGE_HEADER + page[PAGE_HEADER - 1] + sum(segments)
    return is_whole and bool(page[5] & ENDS_STREAM)


def _check_length(path, count, is_cut):
    if not count or is_cut:
        raise UserError(f"{path} is cut off or empty: {count:,} samples are there; fetch it again")


def _check_rate(path, rate):
    if not LOWEST <= rate <= HIGHEST:
        raise UserError(f"{path} has {rate} samples a second; expected {LOWEST} to {HIGHEST}")
