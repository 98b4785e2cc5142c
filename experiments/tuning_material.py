"""What runs of fine-tuning are made from: starting point and examples, read once however many runs share them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from jax.sharding import Mesh

from bert_jax import finetuning
from bert_jax.finetuning_config import BertFinetuning, LabelsConfig
from bert_jax.labelled_texts import LabelledExamples
from bert_jax.starting_points import StartingPoint, check_length
from bert_jax.tuning_starting_points import open_tuning_start
from core_jax.config import require
from experiments.console import StopRequest, say

Part = TypeVar("Part")
# Of `LabelsConfig`, what changes nothing in the records that are read, and nothing in how they are encoded.
NOT_READ = {"sequence_length": 128, "stride": 128, "class_weights": "none", "label_smoothing": 0.0}
NOT_ENCODED = {"label_smoothing": 0.0}


@dataclasses.dataclass(frozen=True)
class Material:
    """What a run is made from; runs of one starting point and one set of texts share it."""

    start: StartingPoint
    classes: list[str]
    train: LabelledExamples
    validation: LabelledExamples
    others: dict[str, LabelledExamples]  # scored once, with the best parameters
    mesh: Mesh
    stopping: StopRequest


def open_materials(configs: Sequence[BertFinetuning], mesh: Mesh, stopping: StopRequest) -> list[Material]:
    """Reads the starting points and examples of runs, each once.

    Args:
      configs: of the runs.
      mesh: where they train.
      stopping: what they ask whether to end.
    Returns:
      What each run is made from: the same object for those that share it.
    Raises:
      UserError: something cannot be read, does not fit together, or is less than a batch.
    """
    starts, sets, materials, found = {}, {}, {}, []
    for config in configs:
        labels = dataclasses.replace(config.labels, **NOT_ENCODED)
        start = _once(starts, config.init, open_tuning_start, config.init, labels, mesh, say)
        check_length(config.init, start.config, labels.sequence_length)  # a shared one was opened for another length
        read = _once(sets, dataclasses.replace(labels, **NOT_READ), finetuning.read_sets, labels)
        material = _once(materials, (config.init, labels), _encode, labels, start, read, mesh, stopping)
        _check_batch(config, material)
        found.append(material)
    return found


def _once(found: dict[Any, Part], key: Any, make: Callable[..., Part], *arguments: Any) -> Part:
    if key not in found:
        found[key] = make(*arguments)
    return found[key]


def _encode(labels: LabelsConfig, start: StartingPoint, sets: Any, mesh: Mesh, stopping: StopRequest) -> Material:
    train, validation, others = sets
    classes = finetuning.classes_of(labels, train, validation)
    encoded = finetuning.encode(labels, train, start.tokenizer, classes, weigh=True)

    def held_out(records: Any) -> LabelledExamples:
        return finetuning.encode(labels, records, start.tokenizer, classes)

    others = {name: held_out(records) for name, records in others.items()}
    return Material(start, classes, encoded, held_out(validation), others, mesh, stopping)


def _check_batch(config: BertFinetuning, material: Material) -> None:
    examples, size = len(material.train.texts), config.tuning.global_batch_size
    require(
        examples >= size,
        f"--data={config.labels.data} gives {examples} examples, fewer than --global_batch_size={size}: "
        "give more, or a smaller batch",
    )
