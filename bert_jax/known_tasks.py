"""Tasks that BERT is measured on: where their examples are, how it is fine-tuned on them, and what others reached."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from bert_jax.model import Head

PAPER = "Devlin et al. 2018, https://arxiv.org/abs/1810.04805"
GOOGLE = "README of https://github.com/google-research/bert"
TRANSFORMERS = "https://github.com/huggingface/transformers, examples/flax/text-classification"


@dataclasses.dataclass(frozen=True)
class PublishedScore:
    """What others reached on the validation examples."""

    value: float  # a share or a correlation, at most 1
    source: str  # which model, who says so
    deviation: float | None = None  # standard deviation over runs that differ in their seed, where there were several

    def __str__(self) -> str:
        spread = "" if self.deviation is None else f" ± {self.deviation:.4f}"
        return f"{self.value:.4f}{spread} ({self.source})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnownTask:
    """One task with its recipe."""

    name: str
    data: str  # as for `core_jax.labelled_data.read_records`
    head: Head
    text_columns: tuple[str, ...]  # one, or two: of a pair, or context and question
    label_column: str
    train_split: str = "train"
    validation_splits: tuple[str, ...] = ("validation",)  # the first chooses the best parameters
    metric: str  # the score that chooses them; larger is better
    learning_rate: float  # highest, of AdamW
    batch_size: int  # examples a step, over all devices
    epochs: float
    sequence_length: int  # tokens of a text at most
    published: Mapping[str, PublishedScore]  # by the name of the score; f1/NAME is of the class NAME alone


def _glue(
    name: str,
    columns: tuple[str, ...],
    published: dict[str, tuple[float, float]],
    *,
    head: Literal["classification", "regression"] = "classification",
    metric: str = "accuracy",
    epochs: float = 3.0,
    validation_splits: tuple[str, ...] = ("validation",),
) -> KnownTask:
    """A task of GLUE with the recipe that its published scores come from: mean and deviation of five runs."""
    source = f"BERT-base cased, mean of 5 runs, {TRANSFORMERS}"
    return KnownTask(
        name=f"glue/{name}",
        data=f"tfds:glue/{name}",
        head=head,
        text_columns=columns,
        label_column="label",
        validation_splits=validation_splits,
        metric=metric,
        learning_rate=2e-5,
        batch_size=32,
        epochs=epochs,
        sequence_length=128,
        published={score: PublishedScore(mean, source, spread) for score, (mean, spread) in published.items()},
    )


def _squad(name: str, version: str, published: dict[str, PublishedScore]) -> KnownTask:
    return KnownTask(
        name=name,
        data=f"tfds:squad/{version}",
        head="span",
        text_columns=("context", "question"),
        label_column="answers",
        metric="f1",
        learning_rate=3e-5,
        batch_size=12,
        epochs=2.0,
        sequence_length=384,
        published=published,
    )


_TASKS = (
    _glue("cola", ("sentence",), {"matthews": (0.5904, 0.0106)}, metric="matthews"),
    _glue("sst2", ("sentence",), {"accuracy": (0.9223, 0.0057)}),
    _glue(
        "mrpc",
        ("sentence1", "sentence2"),
        {"accuracy": (0.8436, 0.0109), "f1/equivalent": (0.8897, 0.0072)},
        epochs=5.0,
    ),
    _glue(
        "stsb",
        ("sentence1", "sentence2"),
        {"pearson": (0.8894, 0.0007), "spearman": (0.8863, 0.0007)},
        head="regression",
        metric="spearman",
    ),
    _glue("qqp", ("question1", "question2"), {"accuracy": (0.9076, 0.0005), "f1/duplicate": (0.8751, 0.0006)}),
    _glue(
        "mnli",
        ("premise", "hypothesis"),
        {"accuracy": (0.8380, 0.0016)},  # of validation_matched
        validation_splits=("validation_matched", "validation_mismatched"),
    ),
    _glue("qnli", ("question", "sentence"), {"accuracy": (0.9082, 0.0017)}),
    _glue("rte", ("sentence1", "sentence2"), {"accuracy": (0.6476, 0.0104)}),
    _glue("wnli", ("sentence1", "sentence2"), {"accuracy": (0.3701, 0.0683)}, epochs=5.0),
    _squad(
        "squad",
        "v1.1",
        {
            "f1": PublishedScore(0.8841, f"BERT-base uncased, {GOOGLE}"),
            "exact_match": PublishedScore(0.8125, f"BERT-base uncased, {GOOGLE}"),
        },
    ),
    _squad("squad_v2", "v2.0", {}),  # its authors publish no score of BERT-base
    KnownTask(
        name="conll2003",
        data="tfds:conll2003",
        head="token",
        text_columns=("tokens",),
        label_column="ner",
        validation_splits=("dev",),
        metric="f1",
        learning_rate=2e-5,
        batch_size=32,
        epochs=3.0,
        sequence_length=128,
        published={"f1": PublishedScore(0.964, f"BERT-base cased, which saw the document around, {PAPER}, table 7")},
    ),
)
KNOWN_TASKS: dict[str, KnownTask] = {task.name: task for task in _TASKS}
