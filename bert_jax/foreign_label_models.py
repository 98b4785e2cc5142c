"""Models for labels of other programs, used as those that were fine-tuned here."""

import dataclasses
from collections.abc import Callable

from jax.sharding import Mesh

from bert_jax.finetuning import WITH_CLASSES, LabelModel, label_model, label_shapes, open_label_model
from bert_jax.finetuning_config import LabelsConfig
from bert_jax.model import Head
from bert_jax.prepared_text import is_foreign
from bert_jax.starting_weights import check_sizes, read_foreign
from bert_jax.weights import LABEL_ARCHITECTURES, Imported, architecture_of, names_label_model
from core_jax.errors import UserError
from core_jax.sharding import by_path, place_like

# What files do not tell: the columns of what is to be labelled.
COLUMNS = {
    "span": {"text_column": "context", "second_text_column": "question"},
    "choice": {"choice_columns": "choice1,choice2"},
}


def is_label_model(place: str) -> bool:
    """Whether hf:DIR says that it labels texts."""
    return place.startswith("hf:") and names_label_model(place[3:])


def open_any_label_model(place: str, mesh: Mesh, report: Callable[[str], None]) -> LabelModel:
    """Reads what a fine-tuning run left, or hf:DIR.

    Raises:
      UserError: nothing is there that labels texts, or it cannot be read.
    """
    if not is_foreign(place):
        return open_label_model(place, mesh, report)
    imported = read_foreign(place)
    check_sizes(place, imported)
    if (found := label_model_of(imported, mesh)) is None:
        raise UserError(f"{place} has no head that labels texts; type: python -m experiments.finetune --init={place}")
    return found


def label_model_of(imported: Imported, mesh: Mesh) -> LabelModel | None:
    """A model of another program as one that was fine-tuned here; None where it labels nothing.

    Args:
      imported: the model; classes without names are called LABEL_0 and so on, as there.
      mesh: where its parameters go.
    """
    head = head_of(imported)
    if head is None:
        return None
    outputs = len(imported.params["classifier"]["dense"]["bias"]) if "classifier" in imported.params else 0
    classes = (imported.labels or [f"LABEL_{index}" for index in range(outputs)]) if head in WITH_CLASSES else []
    defaults = LabelsConfig()
    length = min(defaults.sequence_length, imported.config.maximum_positions)
    labels = dataclasses.replace(defaults, task=head, sequence_length=length, **COLUMNS.get(head, {}))
    model, given = label_model(imported.config, labels, classes), by_path(imported.params)
    shapes = label_shapes(model, mesh)
    return LabelModel(labels, model, imported.tokenizer, classes, place_like(shapes, given, mesh))


def head_of(imported: Imported) -> Head | None:
    """What it labels, if anything: a classifier of one output gives numbers."""
    if not {"classifier", "span_classifier"} & imported.params.keys():
        return None
    architecture = imported.architecture or architecture_of(imported.params)
    heads: list[Head] = [head for head, name in LABEL_ARCHITECTURES.items() if name == architecture]
    if "regression" in heads and len(imported.params["classifier"]["dense"]["bias"]) == 1:
        return "regression"
    return heads[0] if heads else None
