"""How a speech recogniser learns from recordings and what is said in them."""

import dataclasses
from typing import Annotated, Any, Literal

import tyro

from bert_jax.gpt_config import GptConfig
from core_jax.config import ELASTIC, OptimizerConfig, TrainingConfig, require
from vit_jax.audio_clips import ClipsConfig
from vit_jax.audio_encoder import AudioEncoderConfig
from vit_jax.spectrogram_masking import MaskingConfig

POSITIONS_A_SECOND = 50  # of the encoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class WhisperSizes:
    """What --init brings, and no flag changes."""

    encoder: AudioEncoderConfig
    decoder: GptConfig
    # as those of a Whisper; nothing that is learnt depends on them
    settings: dict[str, Any] = dataclasses.field(default_factory=dict, metadata=ELASTIC)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputationConfig:
    """What flags change of a model whose sizes are given."""

    dropout: float = 0.0  # probability of dropping a unit of each branch's output
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of computation
    remat: Literal["none", "dots", "full"] = "none"  # what is computed again in the backward pass, to save memory

    def __post_init__(self):
        require(0 <= self.dropout < 1, f"--dropout={self.dropout}: expected at least 0 and below 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TranscriptConfig:
    """What is written."""

    text_column: str = "text"  # what is said
    language: str = "en"  # of all recordings, its code, for models that know several
    sequence_length: int = 128  # pieces of a transcript at most; recordings of longer ones are left out of training
    # recordings that are written down when they are scored, at most: the first ones; 0: all
    score_clips: int = dataclasses.field(default=200, metadata=ELASTIC)

    def __post_init__(self):
        require(self.sequence_length >= 8, f"--sequence_length={self.sequence_length}: expected 8 or more")
        require(self.score_clips >= 0, f"--score_clips={self.score_clips}: expected a number, or 0 (all)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transcribing:
    """Fine-tunes a Whisper on recordings and what is said in them."""

    preset: str = "transcription"
    # a Whisper: hf:DIR (transformers), ct2:DIR (CTranslate2), or the work folder of a run; its sizes and vocabulary are
    # taken
    init: str = ""
    sizes: Annotated[WhisperSizes, tyro.conf.Suppress]
    model: ComputationConfig
    clips: ClipsConfig
    masking: MaskingConfig
    transcripts: TranscriptConfig
    optimizer: OptimizerConfig
    training: TrainingConfig

    @property
    def encoder(self) -> AudioEncoderConfig:
        """That hears a window."""
        return dataclasses.replace(self.sizes.encoder, **dataclasses.asdict(self.model))

    @property
    def decoder(self) -> GptConfig:
        """That writes."""
        return dataclasses.replace(self.sizes.decoder, **dataclasses.asdict(self.model))


# Whisper tiny: Radford et al. 2022, table 1, https://arxiv.org/abs/2212.04356. The rest is ours; nothing is of a paper.
TRANSCRIBING = Transcribing(
    sizes=WhisperSizes(
        encoder=AudioEncoderConfig(width=384, depth=4, heads=6, mlp_width=1536),
        decoder=GptConfig(width=384, depth=4, heads=6, mlp_width=1536, vocab_size=51_864, maximum_positions=448),
    ),
    model=ComputationConfig(),
    clips=ClipsConfig(),
    masking=MaskingConfig(),
    transcripts=TranscriptConfig(),
    optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=50, weight_decay=0.0),
    training=TrainingConfig(
        steps=500, global_batch_size=16, log_every=20, evaluate_every=250, checkpoint_every=100, keep_checkpoints=1
    ),
)
