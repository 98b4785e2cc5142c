"""BERT's sizes and recipes, each with its source."""

import dataclasses
from typing import Literal

from core_jax.config import ELASTIC, OptimizerConfig, TrainingConfig, TransformerConfig, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig(TransformerConfig):
    """BERT: a Transformer encoder with token, position and type embeddings."""

    norm: Literal["pre", "post"] = "post"  # side of a residual branch on which LayerNorm sits
    norm_epsilon: float = 1e-12  # added to the variance in LayerNorm
    gelu: Literal["erf", "tanh"] = "tanh"  # the original code's tanh approximation, or exact GELU
    vocab_size: int = 30_522  # pieces of a vocabulary to train; one that is given brings its own number
    maximum_positions: int = 512  # rows of the position table: the longest possible sequence
    type_vocab_size: int = 2  # first and second sentence of a pair

    def __post_init__(self):
        super().__post_init__()
        for name in ("vocab_size", "maximum_positions", "type_vocab_size"):
            require(getattr(self, name) > 0, f"--{name}={getattr(self, name)}: expected a positive number")
        require(not self.causal, "--causal=True: BERT sees both sides of a token; for a causal model take gpt-mini")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSource:
    """Which text, cut into rows of which length."""

    # sample, tfds:NAME[/CONFIG], text:GLOB, jsonl:GLOB, or arrayrecord:DIR, which experiments.prepare has made
    data: str = "sample"
    text_column: str = "text"  # field of tfds: and jsonl: that holds the text
    data_split: str = "train"  # split of tfds:
    data_dir: str = ""  # where TFDS keeps its datasets; by default where TFDS itself looks
    tokenizer: str  # trained from the text, or the path of one that is there
    sequence_length: int = 128  # tokens of a row, special ones included
    held_out: float = 0.05  # share of the documents that is never trained on, chosen by their hash

    def __post_init__(self):
        require(0 < self.held_out < 1, f"--held_out={self.held_out}: expected a share, more than 0 and less than 1")
        require(self.sequence_length >= 8, f"--sequence_length={self.sequence_length}: expected 8 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig(TextSource):
    """Which text, cut into which pieces, hidden how."""

    # trained from the text (wordpiece, sentencepiece, sentencepiece-bpe), or the path of one that is there
    tokenizer: str = "wordpiece"
    language: str = "en"  # of the sentence splitter: an ISO 639 code
    lowercase: bool = True  # whether a trained WordPiece vocabulary ignores case and accents
    # whether a row holds as many sentence pairs as fit, each on its own, instead of one and padding; held-out text is
    # scored unpacked all the same
    packing: bool = False
    mask_probability: float = 0.15  # share of the tokens to predict
    whole_word_masking: bool = False  # hide all pieces of a word or none
    short_probability: float = 0.1  # share of pairs that are made short
    evaluation_passes: int = 4  # times that held-out documents are scored, each with other masks and pairs

    def __post_init__(self):
        super().__post_init__()
        require(
            self.tokenizer != "byte-bpe", "--tokenizer=byte-bpe is for GPT: BERT needs [MASK]; try sentencepiece-bpe"
        )
        share = self.mask_probability
        require(0 < share < 1, f"--mask_probability={share}: expected a share, more than 0 and less than 1")
        share = self.short_probability
        require(0 <= share <= 1, f"--short_probability={share}: expected a share, 0 to 1")
        require(self.evaluation_passes > 0, f"--evaluation_passes={self.evaluation_passes}: expected 1 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertPretraining:
    """Pretrains BERT: masked language modelling and next sentence prediction."""

    preset: str = "bert-tiny"  # size and recipe that the other values started from
    # start from the parameters and vocabulary of a finished run (its work folder), of a BERT that transformers saved
    # (hf:DIR) or of an original one (tf:PREFIX); the sizes are then those of the latter two
    init: str = ""
    # of the loss of next sentence prediction in the sum; 0 leaves it out, as RoBERTa does (Liu et al. 2019), and where
    # the sentences of a text have no order
    next_sentence_weight: float = 1.0
    # train nothing: hold the run in --workdir, finished or under way, against the known course of the default run
    check_curve: bool = dataclasses.field(default=False, metadata=ELASTIC)
    model: BertConfig
    text: TextConfig
    optimizer: OptimizerConfig
    training: TrainingConfig

    def __post_init__(self):
        weight = self.next_sentence_weight
        require(weight >= 0, f"--next_sentence_weight={weight}: expected 0 or more")
        length, positions = self.text.sequence_length, self.model.maximum_positions
        require(
            length <= positions,
            f"--sequence_length={length} is longer than the position table (--maximum_positions={positions}): "
            f"use --sequence_length={positions} or less, or a larger --maximum_positions",
        )


# Sizes of Turc et al. 2019 (https://arxiv.org/abs/1908.08962), table 1; base and large are those of Devlin et al. 2018
# (https://arxiv.org/abs/1810.04805), section 3.
TINY = BertConfig(width=128, depth=2, heads=2, mlp_width=512)
MINI = BertConfig(width=256, depth=4, heads=4, mlp_width=1024)
SMALL = BertConfig(width=512, depth=4, heads=8, mlp_width=2048)
MEDIUM = BertConfig(width=512, depth=8, heads=8, mlp_width=2048)
BASE = BertConfig(width=768, depth=12, heads=12, mlp_width=3072)
LARGE = BertConfig(width=1024, depth=24, heads=16, mlp_width=4096)

# Devlin et al. 2018, appendix A.2, and the details of https://github.com/google-research/bert (optimization.py): Adam
# without bias correction, epsilon 1e-6; batch 256, 1,000,000 steps. They train the first 90 % at 128 tokens: this is
# that phase; the other is --sequence_length=512 --init=WORKDIR.
ORIGINAL_OPTIMIZER = OptimizerConfig(learning_rate=1e-4, warmup_steps=10_000, bias_correction=False)
ORIGINAL_TRAINING = TrainingConfig(steps=1_000_000, global_batch_size=256)


def _original(preset: str, model: BertConfig) -> BertPretraining:
    return BertPretraining(
        preset=preset, model=model, text=TextConfig(), optimizer=ORIGINAL_OPTIMIZER, training=ORIGINAL_TRAINING
    )


PRESETS = {
    # Our own recipe, for minutes on two cores and a million words: a small vocabulary, short rows (a batch holds more
    # pairs, of which next sentence prediction learns), no dropout (no part of the text is seen often enough to be
    # learnt by heart), and weights that start larger, as 0.02 at a width of 768 is 0.05 at 128.
    "bert-tiny": BertPretraining(
        preset="bert-tiny",
        model=dataclasses.replace(TINY, vocab_size=4096, dropout=0.0, attention_dropout=0.0, initializer_range=0.06),
        text=TextConfig(sequence_length=64),
        optimizer=OptimizerConfig(learning_rate=2.5e-3, warmup_steps=130, beta2=0.98),
        training=TrainingConfig(
            steps=1300, global_batch_size=64, log_every=20, evaluate_every=500, checkpoint_every=250
        ),
    ),
    "bert-mini": _original("bert-mini", MINI),
    "bert-small": _original("bert-small", SMALL),
    "bert-medium": _original("bert-medium", MEDIUM),
    "bert-base": _original("bert-base", BASE),
    "bert-large": _original("bert-large", LARGE),
}
