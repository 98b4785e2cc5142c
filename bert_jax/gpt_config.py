"""GPT's sizes and recipes, each with its source."""

import dataclasses
import json
from typing import ClassVar, Literal

from etils import epath

from bert_jax.config import TextSource
from core_jax.config import OptimizerConfig, TrainingConfig, TransformerConfig, require
from core_jax.workdir import read_config


@dataclasses.dataclass(frozen=True, kw_only=True)
class GptConfig(TransformerConfig):
    """GPT: a Transformer that reads from left to right, with token and position embeddings."""

    norm: Literal["pre", "post"] = "pre"  # side of a residual branch on which LayerNorm sits
    norm_epsilon: float = 1e-5  # added to the variance in LayerNorm
    gelu: Literal["erf", "tanh"] = "tanh"  # the original code's tanh approximation, or exact GELU
    # what kernels start from: as in GPT-2 a whole normal, divided by sqrt(2 x depth) where a residual branch ends; a
    # truncated normal; or uniform by their fans
    initializer: Literal["normal", "xavier", "gpt2"] = "gpt2"
    causal: bool = True  # whether a position sees only itself and those before it
    vocab_size: int = 50_257  # pieces of a vocabulary to train; one that is given brings its own number
    maximum_positions: int = 1024  # rows of the position table: the longest possible sequence

    def __post_init__(self):
        super().__post_init__()
        for name in ("vocab_size", "maximum_positions"):
            require(getattr(self, name) > 0, f"--{name}={getattr(self, name)}: expected a positive number")
        require(self.causal, "--causal=False: a GPT that sees what comes cannot learn to predict it; leave it out")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GptText(TextSource):
    """Which text, whose documents stay whole, cut into which pieces."""

    # trained from the text (byte-bpe, sentencepiece, sentencepiece-bpe), or the path of one that is there, such as a
    # folder with GPT-2's vocab.json and merges.txt
    tokenizer: str = "byte-bpe"
    sequence_length: int = 1024  # tokens of a row, which holds as many documents as fit; longer ones are cut
    language: ClassVar[str] = ""  # of a sentence splitter: there is none

    def __post_init__(self):
        super().__post_init__()
        require(
            self.tokenizer != "wordpiece",
            "--tokenizer=wordpiece loses case and spaces, which a GPT writes; type --tokenizer=byte-bpe",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GptPretraining:
    """Pretrains GPT: prediction of the next token."""

    preset: str = "gpt-mini"  # size and recipe that the other values started from
    # start from the parameters and vocabulary of a finished run (its work folder), or of a GPT-2 of transformers
    # (hf:DIR), whose sizes are then taken
    init: str = ""
    model: GptConfig
    text: GptText
    optimizer: OptimizerConfig
    training: TrainingConfig

    def __post_init__(self):
        length, positions = self.text.sequence_length, self.model.maximum_positions
        require(
            length <= positions,
            f"--sequence_length={length} is longer than the position table (--maximum_positions={positions}): "
            f"use --sequence_length={positions} or less, or a larger --maximum_positions",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerSource:
    """Which prompts and answers."""

    data: str = ""  # pairs: jsonl:GLOB, csv:GLOB, tsv:GLOB or tfds:NAME[/CONFIG]
    validation_data: str = ""  # as --data; by default a share of --data that is not trained on
    prompt_column: str = "prompt"
    answer_column: str = "answer"
    template: str = "{prompt}\n\n"  # what stands before an answer; {prompt} is the prompt
    held_out: float = 0.1  # share of the pairs that is only scored, where there is no --validation_data
    data_split: str = "train"  # split of tfds:
    data_dir: str = ""  # where TFDS keeps its datasets; by default where TFDS itself looks
    sequence_length: int = 128  # tokens of a row, which holds as many pairs as fit; longer ones are left out

    def __post_init__(self):
        require(0 < self.held_out < 1, f"--held_out={self.held_out}: expected a share, more than 0 and less than 1")
        require("{prompt}" in self.template, f"--template={self.template!r}: expected a text with {{prompt}} in it")
        require(self.sequence_length >= 8, f"--sequence_length={self.sequence_length}: expected 8 or more")

    def framed(self, prompt: str) -> str:
        """A prompt as it stands before an answer."""
        return self.template.replace("{prompt}", prompt)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GptAnswers:
    """Fine-tunes GPT: answers to prompts."""

    preset: str = "answers"
    init: str = ""  # a GPT: hf:DIR of transformers, or the work folder of a run; its sizes and vocabulary are taken
    model: GptConfig
    text: AnswerSource
    optimizer: OptimizerConfig
    training: TrainingConfig

    def __post_init__(self):
        length, positions = self.text.sequence_length, self.model.maximum_positions
        require(
            length <= positions,
            f"--sequence_length={length} is longer than the position table of --init={self.init}: "
            f"use --sequence_length={positions} or less",
        )


GptRun = GptPretraining | GptAnswers


def read_gpt_config(workdir: str) -> GptRun:
    """The configuration of a GPT's work folder.

    Raises:
      UserError: it is none.
    """
    try:
        fields = json.loads((epath.Path(workdir) / "config.json").read_text())
        answers = "prompt_column" in fields["text"]
    except (OSError, ValueError, KeyError, TypeError):
        answers = False  # what is wrong is said by what follows
    return read_config(workdir, GptAnswers if answers else GptPretraining)


# Radford et al. 2019, table 2 (https://openai.com/index/better-language-models); heads as in the hparams.json of the
# published weights (https://github.com/openai/gpt-2). The table counts other parameters: those of section 2.3 are tied.
SMALL = GptConfig(width=768, depth=12, heads=12, mlp_width=3072)
MEDIUM = GptConfig(width=1024, depth=24, heads=16, mlp_width=4096)
LARGE = GptConfig(width=1280, depth=36, heads=20, mlp_width=5120)
XL = GptConfig(width=1600, depth=48, heads=25, mlp_width=6400)
# Ours, for minutes on two cores.
MINI = GptConfig(
    width=128,
    depth=4,
    heads=4,
    mlp_width=512,
    vocab_size=4096,
    maximum_positions=128,
    dropout=0.0,
    attention_dropout=0.0,
    initializer_range=0.04,
)
SIZES = {"gpt-mini": MINI, "gpt2-small": SMALL, "gpt2-medium": MEDIUM, "gpt2-large": LARGE, "gpt2-xl": XL}

# Radford et al. 2019 say only that a batch is 512 rows of 1024 tokens, and that the learning rate was tuned for each
# size. The rest is that of Brown et al. 2020 (https://arxiv.org/abs/2005.14165), appendix B and table 2.1, whose first
# sizes are these; they train on 300 billion tokens, which would be 572,205 such steps.
RATES = {"gpt2-small": 6e-4, "gpt2-medium": 3e-4, "gpt2-large": 2.5e-4, "gpt2-xl": 2e-4}


def _published(preset: str) -> GptPretraining:
    return GptPretraining(
        preset=preset,
        model=SIZES[preset],
        text=GptText(),
        optimizer=OptimizerConfig(
            learning_rate=RATES[preset],
            warmup_steps=715,  # 375 million tokens
            schedule="cosine",
            final_fraction=0.1,
            weight_decay=0.1,
            beta2=0.95,
            epsilon=1e-8,
        ),
        training=TrainingConfig(steps=572_205, global_batch_size=512),
    )


# Rates and lengths of runs as usual for small models; nothing here is of a paper.
ANSWERS = GptAnswers(
    model=SMALL,
    text=AnswerSource(),
    optimizer=OptimizerConfig(learning_rate=5e-5, warmup_steps=50, weight_decay=0.0),
    training=TrainingConfig(
        steps=500, global_batch_size=16, log_every=20, evaluate_every=100, checkpoint_every=100, keep_checkpoints=1
    ),
)

PRESETS = {
    # Short rows, no dropout (no part of the text is seen often enough to be learnt by heart), larger weights at first.
    "gpt-mini": GptPretraining(
        preset="gpt-mini",
        model=MINI,
        text=GptText(sequence_length=128),
        optimizer=OptimizerConfig(
            learning_rate=3e-3, warmup_steps=60, schedule="cosine", final_fraction=0.1, weight_decay=0.1, beta2=0.95
        ),
        training=TrainingConfig(
            steps=700, global_batch_size=32, log_every=20, evaluate_every=350, checkpoint_every=250
        ),
    ),
    **{preset: _published(preset) for preset in RATES},
}
