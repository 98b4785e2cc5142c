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
    maximum_positions: int = 512  # of a sentence, its ends included
    # waves, which need no table; learned, as in BERT: tables of both sides, and LayerNorm on the embeddings; or
    # relative, as in T5: a bias in attention for how far a key stands from its query
    positions: Literal["waves", "learned", "relative"] = "waves"
    type_vocab_size: int = 2  # with learned positions: types in the table of a BERT's encoder, which reads all as 0
    starts_sources: bool = False  # whether a source begins with the piece that translations start from: [CLS] of a BERT
    scale_embedding: bool = True  # whether embeddings are multiplied by the root of the width
    # LayerNorm, or RMSNorm, which subtracts no mean and adds no bias
    norm_kind: Literal["layer", "rms"] = "layer"
    mlp_kind: Literal["plain", "gated"] = "plain"  # of an MLP: two layers, or a third that multiplies what GELU gives
    mlp_dropout: float = 0.0  # probability of dropping a unit between the layers of each MLP
    use_bias: bool = True  # whether linear layers and the output have biases
    head_width: int = 0  # of each attention head; 0: width / heads
    # whether products of queries and keys are divided by the root of the head's width; T5 leaves that to its start
    scale_queries: bool = True
    # with relative positions: buckets of distances, those before and those after together. Neither fused, splash nor
    # cudnn attention can add their bias: "auto" is then XLA's own attention, or the reference where weights are dropped
    relative_buckets: int = 32
    relative_distance: int = 128  # with relative positions: distance from which on all are one bucket
    tied_output: bool = True  # whether the output is multiplied by the embeddings of tokens, or by a table of its own
    scale_output: bool = False  # whether it is divided by the root of the width before
    pad_id: int = 0  # piece that fills up, and is never written
    start_id: int = 2  # piece that a translation starts from
    end_id: int = 3  # piece that ends both sentences

    def __post_init__(self):
        super().__post_init__()
        for name in ("encoder_depth", "vocab_size", "maximum_positions", "type_vocab_size"):
            require(getattr(self, name) > 0, f"--{name}={getattr(self, name)}: expected a positive number")
        require(
            self.width % 2 == 0 or self.positions != "waves",
            f"--width={self.width}: expected an even number, half sines and half cosines",
        )
        require(self.head_width >= 0, f"--head_width={self.head_width}: expected a number, or 0 (width / heads)")
        require(0 <= self.mlp_dropout < 1, f"--mlp_dropout={self.mlp_dropout}: expected at least 0 and below 1")
        if self.positions == "relative":
            self._check_relative()

    def _check_relative(self):
        buckets, longest = self.relative_buckets, self.relative_distance
        require(
            buckets >= 4 and buckets % 4 == 0, f"--relative_buckets={buckets}: expected a multiple of 4, such as 32"
        )
        require(
            longest > buckets // 2,
            f"--relative_distance={longest}: expected more than half of --relative_buckets={buckets}, such as 128",
        )
        require(
            self.attention in ("auto", "reference", "xla"),
            f"--attention={self.attention} cannot add the bias of --positions=relative: use --attention=auto",
        )


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
    # trained from both sides (or sentencepiece, or sentencepiece-t5, which a T5 of transformers can have), or the path
    # of one that is there
    tokenizer: str = "sentencepiece-bpe"
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
    # start from the parameters and vocabulary of a finished run (its work folder) or a Marian or T5 of transformers
    # (hf:DIR);
    # its sizes are taken
    init: str = ""
    # start the encoder from a pretrained BERT: hf:DIR, tf:PREFIX or a work folder; its sizes and vocabulary are taken
    init_encoder: str = ""
    model: TranslationConfig
    pairs: PairsConfig = dataclasses.field(default_factory=PairsConfig)
    optimizer: OptimizerConfig
    tuning: TuningConfig
    # compile the step at its longest sentences for a TPU slice that is not here, such as v5e-8; report, do not train
    plan: str = dataclasses.field(default="", metadata=ELASTIC)
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
        require(
            not (self.init and self.init_encoder),
            f"--init={self.init} and --init_encoder={self.init_encoder} are given; expected one of them",
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
# T5 1.1, small: https://github.com/google-research/text-to-text-transfer-transformer (released_checkpoints.md), after
# Raffel et al. 2020, https://arxiv.org/abs/1910.10683, and, for the gated MLP, Shazeer 2020,
# https://arxiv.org/abs/2002.05202. It has no dropout in pretraining; what is here is for learning to translate.
T5_SMALL = TranslationConfig(
    width=512,
    depth=8,
    encoder_depth=8,
    heads=6,
    head_width=64,
    mlp_width=1024,
    mlp_kind="gated",
    mlp_dropout=0.1,
    gelu="tanh",
    norm="pre",
    norm_kind="rms",
    norm_epsilon=1e-6,
    use_bias=False,
    scale_queries=False,
    positions="relative",
    scale_embedding=False,
    tied_output=False,
    vocab_size=32_128,
    initializer="t5",
)
# Ours, for minutes on two cores: the same in the sizes of TINY.
T5_TINY = dataclasses.replace(
    T5_SMALL,
    **{name: getattr(TINY, name) for name in ("width", "depth", "encoder_depth", "heads", "mlp_width", "vocab_size")},
    head_width=0,
    maximum_positions=256,
    attention_dropout=0.0,
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
    # T5 is trained with Adafactor and a constant rate; the recipes are those above, with AdamW.
    "t5-tiny": Translation(
        preset="t5-tiny",
        model=T5_TINY,
        pairs=PairsConfig(sequence_length=64, tokenizer="sentencepiece-t5"),
        optimizer=OptimizerConfig(
            learning_rate=2e-3, warmup_steps=0, schedule="linear", weight_decay=0.0, beta2=0.98, epsilon=1e-9
        ),
        tuning=TuningConfig(epochs=6.0, global_batch_size=64),
        ema_decay=0.99,
    ),
    "t5-small": Translation(
        preset="t5-small",
        model=T5_SMALL,
        pairs=PairsConfig(sequence_length=256, tokenizer="sentencepiece-t5"),
        optimizer=OptimizerConfig(
            learning_rate=1e-3, warmup_steps=0, schedule="inverse_sqrt", weight_decay=0.0, beta2=0.98, epsilon=1e-9
        ),
        tuning=TuningConfig(epochs=10.0, global_batch_size=256),
    ),
}
