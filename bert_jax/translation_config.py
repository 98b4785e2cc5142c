"""A translator's sizes and recipes, each with its source."""

import dataclasses
from typing import Literal

from bert_jax.finetuning_config import TuningConfig
from core_jax.config import ELASTIC, OptimizerConfig, TransformerConfig, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class TranslationConfig(TransformerConfig):
    """Encoder and decoder, which share one table of tokens with the output."""

    depth: int  # layers of the decoder
    encoder_depth: int  # layers of the encoder
    norm: Literal["pre", "post"] = "post"  # side of a residual branch on which LayerNorm sits
    norm_epsilon: float = 1e-5  # added to the variance in LayerNorm
    gelu: Literal["erf", "tanh", "relu", "swish"] = "relu"  # between the two layers of each MLP
    vocab_size: int = 37_000  # pieces of a vocabulary to train, of both languages; one that is given brings its own
    maximum_positions: int = 512  # of a sentence, its ends included; positions are waves, which need no table
    scale_embedding: bool = True  # whether embeddings are multiplied by the root of the width
    pad_id: int = 0  # piece that fills up, and is never written
    start_id: int = 2  # piece that a translation starts from
    end_id: int = 3  # piece that ends both sentences

    def __post_init__(self):
        super().__post_init__()
        for name in ("encoder_depth", "vocab_size", "maximum_positions"):
            require(getattr(self, name) > 0, f"--{name}={getattr(self, name)}: expected a positive number")
        require(self.width % 2 == 0, f"--width={self.width}: expected an even number, half sines and half cosines")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """Which sentence pairs, cut into which pieces."""

    task: str = "translation"
    # sentence pairs to train on: jsonl:FILES, csv:FILES, tsv:FILES, or tfds:NAME such as tfds:wmt14_translate/de-en
    data: str = ""
    validation_data: str = ""  # to validate on; by default the same tfds: dataset, or a part of --data
    test_data: str = ""  # to be translated and scored once, at the end; by default what is validated on
    data_split: str = "train"  # split of a tfds: dataset to train on
    validation_split: str = "validation"  # split of a tfds: dataset to validate on
    test_split: str = "test"  # split of a tfds: dataset in --test_data
    data_dir: str = ""  # where TFDS keeps its datasets; by default where TFDS itself looks
    source_column: str = "source"  # to translate from
    target_column: str = "target"  # to translate into
    tokenizer: str = "sentencepiece-bpe"  # trained from both sides (or sentencepiece), or the path of one that is there
    sequence_length: int = 128  # tokens of a sentence at most; longer pairs are left out of training, else cut
    held_out: float = 0.05  # share of the pairs to validate on, where there is no --validation_data
    label_smoothing: float = 0.1  # share of each label that is spread over all pieces
    # pairs that are translated and scored at the end at most: the first ones; 0: all
    score_pairs: int = dataclasses.field(default=1000, metadata=ELASTIC)

    def __post_init__(self):
        require(0 < self.held_out < 1, f"--held_out={self.held_out}: expected a share, more than 0 and less than 1")
        require(self.sequence_length >= 8, f"--sequence_length={self.sequence_length}: expected 8 or more")
        smoothing = self.label_smoothing
        require(0 <= smoothing < 1, f"--label_smoothing={smoothing}: expected a share, at least 0 and below 1")
        require(self.score_pairs >= 0, f"--score_pairs={self.score_pairs}: expected a number, or 0 (all)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Translation:
    """Trains a translator on sentence pairs."""

    preset: str = "translation-tiny"  # size and recipe that the other values started from
    init: str = ""  # start from the parameters and vocabulary of a finished run (its work folder); its sizes are taken
    model: TranslationConfig
    pairs: PairsConfig = dataclasses.field(default_factory=PairsConfig)
    optimizer: OptimizerConfig
    tuning: TuningConfig
    # share that each step keeps of a moving average of the parameters, which is what is scored and kept; 0: none
    ema_decay: float = 0.999
    # translations that are followed at once when they are scored; 1: greedy
    beams: int = dataclasses.field(default=4, metadata=ELASTIC)
    # power of the length that their log probabilities are divided by
    length_penalty: float = dataclasses.field(default=0.6, metadata=ELASTIC)

    def __post_init__(self):
        length, positions = self.pairs.sequence_length, self.model.maximum_positions
        require(
            length <= positions,
            f"--sequence_length={length} is more than --maximum_positions={positions}: "
            f"use --sequence_length={positions} or less",
        )
        causal = "--causal=True: the decoder is always, the encoder never; leave it out"
        require(not self.model.causal, causal)
        require(0 <= self.ema_decay < 1, f"--ema_decay={self.ema_decay}: expected at least 0 and below 1")
        require(self.beams > 0, f"--beams={self.beams}: expected 1 or more")


# Vaswani et al. 2017, table 3, https://arxiv.org/abs/1706.03762. Tables start as in their code, tensor2tensor: with a
# deviation of 1 / sqrt(width), which is also that of Glorot's rule for square kernels.
BASE = TranslationConfig(
    width=512,
    depth=6,
    encoder_depth=6,
    heads=8,
    mlp_width=2048,
    attention_dropout=0.0,
    initializer_range=512**-0.5,
)
# Ours, for minutes on two cores.
TINY = TranslationConfig(
    width=192,
    depth=2,
    encoder_depth=2,
    heads=4,
    mlp_width=512,
    vocab_size=4000,
    maximum_positions=256,
    attention_dropout=0.0,
    initializer_range=192**-0.5,
)
PRESETS = {
    "translation-tiny": Translation(
        model=TINY,
        pairs=PairsConfig(sequence_length=64),
        optimizer=OptimizerConfig(
            learning_rate=2e-3, warmup_steps=0, schedule="linear", weight_decay=0.0, beta2=0.98, epsilon=1e-9
        ),
        tuning=TuningConfig(epochs=6.0, global_batch_size=64),
        ema_decay=0.99,
    ),
    # Section 5.3: the rate rises over 4,000 steps to 1 / sqrt(512 x 4000), then falls by the inverse root of the step.
    # Section 5.1: about 25,000 tokens of each language a step. They average the last 5 checkpoints; here, all steps.
    "translation-base": Translation(
        preset="translation-base",
        model=BASE,
        pairs=PairsConfig(sequence_length=256),
        optimizer=OptimizerConfig(
            learning_rate=(512 * 4000) ** -0.5,
            warmup_steps=4000,
            schedule="inverse_sqrt",
            weight_decay=0.0,
            beta2=0.98,
            epsilon=1e-9,
            clip_norm=0.0,
        ),
        tuning=TuningConfig(epochs=10.0, global_batch_size=768),
    ),
}
