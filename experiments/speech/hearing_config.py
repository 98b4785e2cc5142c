"""How an encoder of sound learns classes of recordings, or to spell what is said in them."""

import dataclasses

from core_jax.config import OptimizerConfig, TrainingConfig, require
from experiments.speech.config import POSITIONS_A_SECOND
from vit_jax.audio_clips import ClipsConfig
from vit_jax.audio_encoder import AudioEncoderConfig
from vit_jax.spectrogram_masking import MaskingConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoundsConfig:
    """What recordings are told apart by."""

    label_column: str = "label"  # class of each recording
    label_smoothing: float = 0.0  # share of each label that is spread evenly over all classes

    def __post_init__(self):
        share = self.label_smoothing
        require(0 <= share < 1, f"--label_smoothing={share}: expected a share, at least 0 and below 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LettersConfig:
    """What is spelt."""

    text_column: str = "text"  # what is said
    # letters of a transcript at most; recordings of longer ones are left out of training
    letters: int = 200

    def __post_init__(self):
        require(self.letters > 0, f"--letters={self.letters}: expected 1 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hearing:
    """Trains an encoder of sound."""

    preset: str
    # an encoder to start from: that of a Whisper, hf:DIR (transformers) or ct2:DIR (CTranslate2), or of the work folder
    # of a run; its sizes are taken. Empty: random parameters
    init: str = ""
    model: AudioEncoderConfig
    clips: ClipsConfig
    masking: MaskingConfig
    optimizer: OptimizerConfig
    training: TrainingConfig

    def __post_init__(self):
        window = self.clips.window_seconds
        require(
            not window or self.positions > 0,
            f"--window_seconds={window:g}: expected at least {1 / POSITIONS_A_SECOND:g} seconds",
        )

    @property
    def positions(self) -> int:
        """Of a window."""
        return round(self.clips.window_seconds * POSITIONS_A_SECOND) or self.model.maximum_positions

    @property
    def encoder(self) -> AudioEncoderConfig:
        """The model, with the window that is asked for."""
        return dataclasses.replace(self.model, maximum_positions=self.positions)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoundClassification(Hearing):
    """Trains an encoder of sound to tell classes of recordings apart."""

    sounds: SoundsConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spelling(Hearing):
    """Trains an encoder of sound to spell what is said, with CTC."""

    letters: LettersConfig


# Sizes of Whisper tiny: Radford et al. 2022, table 1, https://arxiv.org/abs/2212.04356. The rest is ours; nothing is of
# a paper.
_MODEL = AudioEncoderConfig(width=384, depth=4, heads=6, mlp_width=1536, dropout=0.1)
_TRAINING = TrainingConfig(
    steps=500, global_batch_size=16, log_every=20, evaluate_every=250, checkpoint_every=100, keep_checkpoints=1
)
CLASSIFYING = SoundClassification(
    preset="audio_classification",
    model=_MODEL,
    clips=ClipsConfig(),
    masking=MaskingConfig(),
    sounds=SoundsConfig(),
    optimizer=OptimizerConfig(learning_rate=3e-4, warmup_steps=50, weight_decay=0.01),
    training=_TRAINING,
)
SPELLING = Spelling(
    preset="ctc",
    model=_MODEL,
    clips=ClipsConfig(),
    masking=MaskingConfig(),
    letters=LettersConfig(),
    optimizer=OptimizerConfig(learning_rate=3e-4, warmup_steps=100, weight_decay=0.01),
    training=_TRAINING,
)
