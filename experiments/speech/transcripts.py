"""Recordings with their transcripts, as examples to learn from, and as those whose words are counted.

Axes: T pieces of a transcript.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from bert_jax.transcript_tokens import TranscriptTokens
from bert_jax.transcript_vocabulary import FILE, read_vocabulary
from core_jax.atomic_files import new_folder
from core_jax.config import require
from core_jax.distributed import first_decides
from experiments.speech.config import Transcribing
from experiments.speech.starting_points import TOKENIZER, vocabulary_folder
from vit_jax.audio_clips import Clip, ClipExamples, fitting, read_clips
from vit_jax.log_mel import FRAMES_A_SECOND

# Tokens of the published models of English, whose vocabularies have the pieces of all languages too.
ENGLISH_ALONE = 51_864


@dataclasses.dataclass(frozen=True)
class Transcripts:
    """The data of a run."""

    folder: pathlib.Path  # of the vocabulary
    tokens: TranscriptTokens
    train: ClipExamples
    held_out: ClipExamples
    scored: Sequence[Clip]  # whose words are counted, also those that are longer than a window
    left_out: int  # recordings that are not trained on, since they or their transcripts are too long


def read_tokens(folder: pathlib.Path, vocab_size: int, settings: Mapping[str, Any]) -> TranscriptTokens:
    """The vocabulary of a model.

    Which languages the model was taught its settings tell; where they do not, the pieces of the vocabulary do.

    Args:
      folder: of the vocabulary.
      vocab_size: pieces that the model knows.
      settings: those of the `Whisper`.
    Raises:
      UserError: the vocabulary is missing or damaged.
    """
    languages = settings.get("languages", vocab_size != ENGLISH_ALONE)
    return TranscriptTokens.read(folder, languages=languages, tasks=settings.get("tasks"))


def open_transcripts(config: Transcribing, workdir: str) -> Transcripts:
    """The recordings of a run; its vocabulary, that of --init, is kept in the work folder.

    Raises:
      UserError: recordings or vocabulary cannot be read, or all recordings are too long.
    """
    folder = pathlib.Path(workdir) / TOKENIZER

    def keep_vocabulary() -> None:
        if not folder.exists():
            with new_folder(folder) as made:
                (made / FILE).write_bytes(read_vocabulary(vocabulary_folder(config.init)))

    first_decides(keep_vocabulary)
    tokens = read_tokens(folder, config.decoder.vocab_size, config.sizes.settings)
    train, held_out = read_clips(config.clips, config.transcripts.text_column)
    to_train = _examples(config, tokens, train, "data")
    to_train = dataclasses.replace(to_train, masking=config.masking, seed=config.training.seed)
    to_score = _examples(config, tokens, held_out, "validation_data")
    written = held_out[: config.transcripts.score_clips or None]
    return Transcripts(folder, tokens, to_train, to_score, written, len(train) - len(to_train))


def _examples(config, tokens, clips, name):
    """Those that fit into a window and a row."""
    encoder, longest = config.encoder, config.transcripts.sequence_length
    window = encoder.frames / FRAMES_A_SECOND
    short = fitting(clips, window, name)
    prompt = tokens.prompt(config.transcripts.language, "transcribe", stamps=False)
    rows = [[*prompt, *pieces, tokens.end_id] for pieces in tokens.encode([clip.label for clip in short])]
    pairs = [(clip, row) for clip, row in zip(short, rows, strict=True) if len(row) - 1 <= longest]
    require(bool(pairs), f"--{name}: all transcripts are longer than --sequence_length={longest} pieces; use more")
    targets = [target(row, len(prompt), longest) for _, row in pairs]
    return ClipExamples([clip for clip, _ in pairs], targets, encoder.frames, encoder.mel_bands)


def target(row: Sequence[int], prompt: int, length: int) -> dict[str, Any]:
    """A transcript to learn to write.

    Args:
      row: the pieces before it, its own, and the end.
      prompt: how many stand before it; they are given, and count for nothing.
      length: T.
    """
    count = len(row) - 1
    tokens, labels, segments = (np.zeros(length, np.int32) for _ in range(3))
    tokens[:count], labels[:count], segments[:count] = row[:-1], row[1:], 1
    weights: Float32[np.ndarray, " T"] = np.zeros(length, np.float32)
    weights[prompt - 1 : count] = 1
    return {"tokens": tokens, "segments": segments, "labels": labels, "weights": {"next": weights}}
