"""Recordings as examples: spectrograms of one length, and what is to be learned from each.

Axes: N samples, F frames, M mel bands.
"""

import dataclasses
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Float32

from core_jax.config import require
from core_jax.draws import generator
from core_jax.errors import UserError
from core_jax.labelled_data import check_records, hold_out, read_records
from vit_jax.audio_files import read_audio, whole_seconds
from vit_jax.log_mel import HOP, log_mel
from vit_jax.spectrogram_masking import MaskingConfig, mask_spectrogram

READERS = 16  # files that are looked into at once: most of the time is spent on waiting for disks
SHOWN = 5  # mistakes of a list that are told


@dataclasses.dataclass(frozen=True)
class Clip:
    """A recording, and what is known of it."""

    audio: str  # path of the file
    label: str  # what is said, or its class

    @functools.cached_property
    def seconds(self) -> float:
        """How long it is.

        Raises:
          UserError: it cannot be read, or is cut off or empty.
        """
        return whole_seconds(self.audio)


@dataclasses.dataclass(frozen=True)
class ClipExamples:
    """Spectrograms with their targets; may be shared by threads and sent to other processes.

    `example` gives {"spectrograms": float32[F, M], "frames": int32} and the target.
    """

    clips: Sequence[Clip]
    targets: Sequence[dict[str, Any]]  # of each clip, arrays of fixed shapes, with "weights"
    frames: int  # F
    bands: int  # M
    seed: int = 0
    masking: MaskingConfig | None = None  # what is hidden in training; None where nothing is
    crop: bool = False  # whether of longer recordings any window is heard, another in each epoch, instead of the first

    def __len__(self) -> int:
        return len(self.clips)

    def example(self, epoch: int, index: int) -> dict[str, Any]:
        """One recording, another part of it hidden in each epoch."""
        samples, random = read_audio(self.clips[index].audio), generator(self.seed, epoch, index)
        if self.crop:
            samples = samples[random.integers(max(len(samples) - self.frames * HOP, 0), endpoint=True) :]
        found, frames = spectrogram(samples, self.frames, self.bands)
        if self.masking is not None:
            found = mask_spectrogram(found, frames, self.masking, random)
        return {"spectrograms": found, "frames": np.int32(frames), **self.targets[index]}


def spectrogram(
    samples: Float32[np.ndarray, " N"], frames: int, bands: int
) -> tuple[Float32[np.ndarray, "{frames} {bands}"], int]:
    """A recording in a window: what is longer is cut, what is shorter goes on in silence.

    Args:
      samples: of RATE a second.
      frames: of the window.
      bands: of the spectrogram.
    Returns:
      The spectrogram, and how many of its frames hold the recording.
    """
    wanted = frames * HOP
    padded = np.zeros(wanted, np.float32)
    padded[: len(samples)] = samples[:wanted]
    return log_mel(padded, bands), max(min(-(-len(samples) // HOP), frames), 1)


def fitting(clips: Sequence[Clip], seconds: float, name: str) -> list[Clip]:
    """The clips that are no longer than a window.

    Args:
      clips: to choose from.
      seconds: of the window.
      name: of the flag that names them.
    Raises:
      UserError: there are none, or one cannot be read.
    """
    found = [clip for clip in clips if clip.seconds <= seconds]
    if not found:
        raise UserError(f"--{name}: none of {len(clips)} recordings is as short as a window of {seconds:g} seconds")
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipsConfig:
    """Which recordings, and how much of them is heard at once."""

    data: str = ""  # recordings to train on: jsonl:FILES, csv:FILES or tsv:FILES
    validation_data: str = ""  # as --data; by default a share of --data that is not trained on
    audio_column: str = "audio"  # paths of recordings
    held_out: float = 0.1  # share of the recordings that is only scored, where there is no --validation_data
    # seconds that are heard at once: longer recordings are left out of training, and shorter windows cost less. 0: as
    # many as the model hears
    window_seconds: float = 0.0

    def __post_init__(self):
        require(0 < self.held_out < 1, f"--held_out={self.held_out}: expected a share, more than 0 and less than 1")
        require(self.window_seconds >= 0, f"--window_seconds={self.window_seconds}: expected seconds, or 0")


def check_clips(config: ClipsConfig, column: str) -> None:
    """Raises for mistakes in where recordings come from that show without reading them.

    Args:
      config: says where.
      column: of what is to be learned.
    Raises:
      UserError: no data, no such file or column.
    """
    require(bool(config.data), "--data=: expected recordings, such as --data=jsonl:clips.jsonl")
    for data in filter(None, (config.data, config.validation_data)):
        check_records(data, (config.audio_column, column))


def read_clips(config: ClipsConfig, column: str) -> tuple[list[Clip], list[Clip]]:
    """Those to train on, and those that are only scored.

    Args:
      config: says which.
      column: of what is to be learned.
    Raises:
      UserError: they cannot be read, or have no texts.
    """

    train = list_clips(config.data, config.audio_column, column)
    if config.validation_data:
        return train, list_clips(config.validation_data, config.audio_column, column)
    return hold_out(config.data, train, config.held_out)


def list_clips(data: str, audio_column: str, column: str) -> list[Clip]:
    """The recordings of a list.

    Args:
      data: jsonl:FILES, csv:FILES or tsv:FILES.
      audio_column: of paths.
      column: of what is to be learned.
    Raises:
      UserError: they cannot be read, are cut off, or have no texts.
    """
    found = [(one[audio_column], one[column]) for one in read_records(data, (audio_column, column))]
    for audio, label in found:
        require(isinstance(audio, str), f"--audio_column={audio_column}: expected paths, found {audio!r:.60}")
        require(str(label).strip() != "", f"{data}: {audio} has an empty {column!r}: leave it out")
    clips = [Clip(audio, str(label)) for audio, label in found]
    check_whole(clips, data)
    return clips


def check_whole(clips: Sequence[Clip], data: str) -> None:
    """Raises for recordings that could not be heard later, in the middle of training.

    Args:
      clips: to look into.
      data: where they are listed.
    Raises:
      UserError: some are missing, damaged, cut off or empty.
    """

    def mistake(clip: Clip) -> str:
        try:
            _ = clip.seconds  # kept, for who asks again
        except UserError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(READERS) as readers:
        wrong = [text for text in readers.map(mistake, clips) if text]
    if wrong:
        more = [f"and {len(wrong) - SHOWN:,} more"] if len(wrong) > SHOWN else []
        raise UserError(
            f"{data}: {len(wrong):,} of {len(clips):,} recordings cannot be used: mend them, or take them off the "
            "list:\n  " + "\n  ".join([*wrong[:SHOWN], *more])
        )
