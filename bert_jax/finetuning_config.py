"""How a pretrained BERT is fine-tuned: every field is a flag, the comment beside it its help."""

import dataclasses
from typing import Literal

from core_jax.config import ELASTIC, OptimizerConfig, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelsConfig:
    """Which labelled texts."""

    # classification, regression, token, span or choice; or a known one, such as glue/sst2, squad or conll2003, which
    # brings its data, columns and recipe
    task: str = "classification"
    data: str = ""  # jsonl:GLOB, csv:GLOB, tsv:GLOB, conll:GLOB, squad:FILE, tfds:NAME[/CONFIG] or sample
    validation_data: str = ""  # as --data; by default a share of --data that is not trained on
    data_split: str = "train"  # split of tfds:
    validation_split: str = "validation"  # split of tfds: to validate on
    test_data: str = ""  # as --data; scored once, with the best parameters, when the run ends
    test_split: str = "test"  # split of tfds: in --test_data
    data_dir: str = ""  # where TFDS keeps its datasets; by default where TFDS itself looks
    text_column: str = "text"  # the text; of a token task its words, of a span task the context
    second_text_column: str = ""  # second sentence of a pair; of a span task the question
    label_column: str = "label"  # class, number, tags, answers, or place of the right choice
    choice_columns: str = ""  # of a choice, the texts to choose from, with commas between
    sequence_length: int = 128  # tokens of a text at most, special ones included
    stride: int = 128  # tokens between the beginnings of two windows of a context that is longer
    held_out: float = 0.1  # share of the examples to validate on, where there is no --validation_data
    class_weights: Literal["none", "balanced"] = "none"  # balanced: each class counts the same in the loss
    label_smoothing: float = 0.0  # share of each label that is spread over all classes

    def __post_init__(self):
        require(0 < self.held_out < 1, f"--held_out={self.held_out}: expected a share, more than 0 and less than 1")
        require(self.sequence_length >= 8, f"--sequence_length={self.sequence_length}: expected 8 or more")
        require(self.stride > 0, f"--stride={self.stride}: expected 1 or more")
        smoothing = self.label_smoothing
        require(0 <= smoothing < 1, f"--label_smoothing={smoothing}: expected a share, at least 0 and below 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """How long, on what devices, and what is kept."""

    epochs: float = 3.0  # passes over the examples
    global_batch_size: int = 32  # examples a step, over all devices and hosts; they are packed into fewer rows
    warmup_fraction: float = (
        0.1  # share of the steps over which the learning rate rises, unless --warmup_steps says more
    )
    patience: int = 0  # epochs without a better score after which the run ends; 0: it goes to its end
    seed: int = 0  # of the new head, the order of the examples and dropout
    mesh: str = dataclasses.field(default="data:-1", metadata=ELASTIC)  # devices by axis, as for pretraining
    workdir: str = dataclasses.field(default="", metadata=ELASTIC)  # by default runs/TASK
    log_every: int = dataclasses.field(default=50, metadata=ELASTIC)  # steps between lines of metrics.jsonl
    # without a sign of life, after which one of several processes counts as dead, and the run ends on all
    silence_seconds: int = dataclasses.field(default=60, metadata=ELASTIC)

    def __post_init__(self):
        require(self.epochs > 0, f"--epochs={self.epochs}: expected more than 0")
        for name in ("global_batch_size", "log_every", "silence_seconds"):
            require(getattr(self, name) > 0, f"--{name}={getattr(self, name)}: expected a positive number")
        require(self.patience >= 0, f"--patience={self.patience}: expected 0 (off) or more")
        require(0 <= self.warmup_fraction < 1, f"--warmup_fraction={self.warmup_fraction}: expected a share below 1")
        require(0 <= self.seed < 2**31, f"--seed={self.seed}: expected a whole number from 0 to {2**31 - 1}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertFinetuning:
    """Fine-tunes a pretrained BERT on labelled texts."""

    init: str = ""  # what to start from: hf:DIR, tf:PREFIX, or the work folder of a run
    dropout: float = 0.1  # probability of dropping a unit of the embeddings and of each branch's output
    attention_dropout: float = 0.1  # probability of dropping an attention weight
    # type of computation, parameters stay float32; "auto": bfloat16 on TPU and GPU, float32 on CPU
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    labels: LabelsConfig = dataclasses.field(default_factory=LabelsConfig)
    # Devlin et al. 2018, appendix A.3: AdamW, learning rate of 2e-5 to 5e-5, 10 % warm-up, then linear to 0
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(learning_rate=2e-5, warmup_steps=0)
    )
    tuning: TuningConfig = dataclasses.field(default_factory=TuningConfig)

    def __post_init__(self):
        for name in ("dropout", "attention_dropout"):
            rate = getattr(self, name)
            require(0 <= rate < 1, f"--{name}={rate}: expected a probability, at least 0 and below 1")
