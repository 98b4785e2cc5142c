"""From a configuration to everything that fine-tuning and its use need: examples, model and parameters."""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh
from jaxtyping import PyTree

from bert_jax.answers import METRICS
from bert_jax.class_weights import balanced
from bert_jax.config import BertConfig
from bert_jax.finetuning_config import BertFinetuning, LabelsConfig
from bert_jax.gpt_config import GptConfig
from bert_jax.gpt_for_labels import GptForLabels
from bert_jax.known_tasks import KNOWN_TASKS
from bert_jax.labelled_texts import Columns, LabelledExamples, Record, class_names, encode_examples
from bert_jax.labelling import ModelForLabels, initial_label_params, labelling_loss
from bert_jax.model import BertForLabels, Head
from bert_jax.pretraining import identity
from bert_jax.tokenizer import Tokenizer
from bert_jax.tokenizer_files import load_tokenizer
from core_jax.checkpoints import restore_params
from core_jax.config import OptimizerConfig, from_json, require, to_json
from core_jax.labelled_data import check_records, hold_out, read_records
from core_jax.labelled_data import class_names as known_class_names
from core_jax.optimizers import make_optimizer
from core_jax.sharding import batch_parts, check_mesh, tree_shardings, with_shardings
from core_jax.side_by_side import SEED_AXIS, compile_side_by_side
from core_jax.train import abstract_state, compile_step, make_step
from core_jax.workdir import read_config, write_atomically

HEADS: tuple[Head, ...] = ("classification", "regression", "token", "span", "choice")
SHOWN_CHARACTERS = 60  # of an example, in what to type next
Records = list[dict[str, Any]]
WITH_CLASSES = ("classification", "token")  # the heads whose labels are of classes
OUTPUTS = {"regression": 1, "span": 2, "choice": 1}  # of the linear layer, where there are no classes


def head_of(labels: LabelsConfig) -> Head:
    """The head of a task.

    Raises:
      UserError: no such task.
    """
    heads: dict[str, Head] = {name: task.head for name, task in KNOWN_TASKS.items()}
    heads |= {head: head for head in HEADS}
    require(labels.task in heads, f"--task={labels.task}: expected one of {', '.join(heads)}")
    return heads[labels.task]


def metric_of(labels: LabelsConfig) -> str:
    """The score that chooses the best epoch."""
    known = KNOWN_TASKS.get(labels.task)
    return known.metric if known else METRICS[head_of(labels)]


def columns_of(labels: LabelsConfig) -> Columns:
    """Which columns hold what."""
    choices = tuple(name.strip() for name in labels.choice_columns.split(",") if name.strip())
    return Columns(labels.text_column, labels.second_text_column, labels.label_column, choices)


def check_labels(labels: LabelsConfig) -> None:
    """Refuses flags that do not fit each other.

    Raises:
      UserError: with what to type instead.
    """
    head, columns = head_of(labels), columns_of(labels)
    require(bool(labels.data), "--data=: expected labelled texts, such as --data=jsonl:reviews.jsonl")
    require(
        labels.class_weights == "none" or head in WITH_CLASSES,
        f"--class_weights={labels.class_weights}: a task of {head} has no classes that its examples share and that "
        "could be weighed; leave the flag away",
    )
    require(
        head != "choice" or len(columns.choices) > 1,
        f"--choice_columns={labels.choice_columns}: expected the columns to choose from, with commas between",
    )
    require(
        head != "span" or bool(columns.second),
        "--second_text_column=: a span task needs the column of the question, such as --second_text_column=question",
    )


def wanted_columns(labels: LabelsConfig, *, labelled: bool = True) -> list[str]:
    """The columns that the task reads."""
    columns = columns_of(labels)
    names = (columns.text, columns.second, *columns.choices, columns.label if labelled else "")
    return list(dict.fromkeys(name for name in names if name))


def read_labelled(labels: LabelsConfig, data: str, split: str, data_dir: str = "") -> Records:
    """The records of one source with the columns that the task reads."""
    return read_records(data, wanted_columns(labels), split=split, data_dir=data_dir or labels.data_dir or None)


def held_out_sets(labels: LabelsConfig) -> dict[str, tuple[str, str]]:
    """Source and split of each set to score beside a share of --data: "validation" is the one that chooses."""
    sets = {}
    if labels.validation_data:
        sets["validation"] = labels.validation_data, labels.validation_split
    elif labels.data.startswith("tfds:"):
        sets["validation"] = labels.data, labels.validation_split
    known = KNOWN_TASKS.get(labels.task)
    if known and not labels.validation_data:
        sets |= {split: (labels.data, split) for split in known.validation_splits if split != labels.validation_split}
    if labels.test_data:
        sets["test"] = labels.test_data, labels.test_split
    return sets


def check_sets(labels: LabelsConfig) -> None:
    """Refuses sources without the columns that the task reads, before they are read.

    Raises:
      UserError: with the columns that there are.
    """
    for data, split in ((labels.data, labels.data_split), *held_out_sets(labels).values()):
        check_records(data, wanted_columns(labels), split=split, data_dir=labels.data_dir or None)


def read_sets(labels: LabelsConfig) -> tuple[Records, Records, dict[str, Records]]:
    """The records to train on, those to validate on, and those to score when a run ends, by the name of their set."""
    train = read_labelled(labels, labels.data, labels.data_split)
    others = {name: read_labelled(labels, *place) for name, place in held_out_sets(labels).items()}
    if "validation" in others:
        return train, others.pop("validation"), others
    return *hold_out(labels.data, train, labels.held_out), others


def sample_text(labels: LabelsConfig, record: Record) -> str:
    """What `experiments.predict` takes as its argument, of one record."""
    names = wanted_columns(labels, labelled=False)
    if len(names) > 1:
        return json.dumps({name: record[name] for name in names}, ensure_ascii=False)
    text = record[names[0]]
    return " ".join(map(str, text)) if isinstance(text, list) else str(text)[:SHOWN_CHARACTERS]


def classes_of(labels: LabelsConfig, train: Sequence[Record], validation: Sequence[Record]) -> list[str]:
    """The names of the labels, in the order of the outputs: the dataset's own order where it has one.

    Args:
      labels: the task.
      train: records to train on.
      validation: records to validate on. Where they are a share of --data, their labels are classes as well: which of
        its rare labels a file would lose to that share is chance.
    Raises:
      UserError: there is only one.
    """
    head, columns = head_of(labels), columns_of(labels)
    if head not in WITH_CLASSES:
        return []
    records = train if "validation" in held_out_sets(labels) else [*train, *validation]
    known = known_class_names(labels.data, columns.label, data_dir=labels.data_dir or None)
    names = list(known) if known else class_names(records, head, columns.label)
    require(len(names) > 1, f"column {columns.label!r} of {labels.data} holds the label {names[:1]} only; expected two")
    return names


def encode(
    labels: LabelsConfig,
    records: Sequence[Record],
    tokenizer: Tokenizer,
    classes: Sequence[str],
    *,
    labelled: bool = True,
    weigh: bool = False,
) -> LabelledExamples:
    """The records of a task as ids; `weigh` as --class_weights says."""

    examples = encode_examples(
        records,
        tokenizer,
        head=head_of(labels),
        columns=columns_of(labels),
        classes=classes,
        sequence_length=labels.sequence_length,
        stride=labels.stride,
        labelled=labelled,
    )
    if not weigh or labels.class_weights == "none":
        return examples
    return dataclasses.replace(examples, texts=balanced(examples.texts, len(classes)))


@dataclasses.dataclass(frozen=True)
class LabelModel:
    """A model for labels and all that its use needs."""

    labels: LabelsConfig
    model: ModelForLabels
    tokenizer: Tokenizer
    classes: list[str]
    params: PyTree
    may_be_empty: bool | None = None  # of spans, whether it learnt to give no answer; None: nobody has written it down


def save_label_model(
    workdir: str,
    model: ModelForLabels,
    tokenizer: Tokenizer,
    classes: Sequence[str],
    may_be_empty: bool | None = None,
) -> None:
    """Writes all of a model but its parameters: model.json, labels.json and tokenizer/."""
    folder = epath.Path(workdir)
    labels = {"classes": classes} | ({} if may_be_empty is None else {"may_be_empty": may_be_empty})
    write_atomically(folder / "model.json", to_json(model.config) + "\n")
    write_atomically(folder / "labels.json", json.dumps(labels, indent=2) + "\n")
    tokenizer.save(folder / "tokenizer")


def label_model(config: BertConfig | GptConfig, labels: LabelsConfig, classes: Sequence[str]) -> ModelForLabels:
    """The model of a task."""
    head = head_of(labels)
    outputs = OUTPUTS.get(head, len(classes))
    if isinstance(config, GptConfig):
        return GptForLabels(config, head, outputs)
    return BertForLabels(config, head, outputs)


def label_shapes(model: ModelForLabels, mesh: Mesh) -> PyTree:
    """The shapes of a model's parameters.

    Raises:
      UserError: the mesh does not divide them.
    """
    shapes = jax.eval_shape(initial_label_params(model), jax.random.key(0))
    check_mesh(mesh, shapes, batch_parts(mesh))  # rows are added until any mesh divides a batch
    return shapes


def open_label_model(workdir: str, mesh: Mesh, report: Callable[[str], None]) -> LabelModel:
    """Reads what a fine-tuning run left: the parameters with the best score, else the newest.

    Raises:
      UserError: the folder holds no such run, or no checkpoint that fits.
    """
    config = read_config(workdir, BertFinetuning)
    folder = epath.Path(workdir)
    parts = folder / "model.json", folder / "labels.json"
    require(all(part.exists() for part in parts), f"{workdir} holds no fine-tuned model yet; let its run finish")
    tokenizer = load_tokenizer(folder / "tokenizer")
    labels = json.loads(parts[1].read_text())
    classes = labels["classes"]
    fields = parts[0].read_text()
    kind = GptConfig if json.loads(fields).get("causal") else BertConfig
    model = label_model(from_json(kind, fields), config.labels, classes)
    shapes = with_shardings(label_shapes(model, mesh), mesh)
    best = os.path.join(workdir, "best")
    source = best if os.path.isdir(best) else os.path.join(workdir, "checkpoints")
    params = restore_params(source, shapes, identity=identity(tokenizer), report=report)
    return LabelModel(config.labels, model, tokenizer, classes, params, labels.get("may_be_empty"))


def grafted(fresh: PyTree, source: PyTree, mesh: Mesh) -> tuple[PyTree, list[str]]:
    """Fresh parameters with the encoder of a pretrained model in their place.

    Args:
      fresh: of the task's model.
      source: of the pretrained one; its "bert" or "gpt" is taken, as far as it is there.
      mesh: where the parameters live.
    Returns:
      The parameters, and the names of the parts that stayed fresh.
    """
    [name] = {"bert", "gpt"}.intersection(fresh)
    taken = {part: source[name].get(part, value) for part, value in fresh[name].items()}
    missing = [part for part in fresh[name] if part not in source[name]]
    # Copied: a step deletes the state that it is given, and other runs begin with the same parameters.
    placed = jax.device_put(taken, tree_shardings({name: taken}, mesh)[name], may_alias=False)
    return fresh | {name: placed}, missing + [part for part in fresh if part != name]


@functools.lru_cache(maxsize=8)
def tuning_step(
    model: ModelForLabels, optimizer: OptimizerConfig, steps: int, smoothing: float, mesh: Mesh
) -> Callable[..., Any]:
    """The jitted step of fine-tuning, on a split mesh that of several runs; those of other seeds share it."""
    transformation = make_optimizer(optimizer, steps)
    shapes = abstract_state(initial_label_params(model), transformation)
    step = make_step(labelling_loss(model, train=True, smoothing=smoothing), transformation)
    if SEED_AXIS in mesh.axis_names:
        return compile_side_by_side(step, shapes, mesh)
    return compile_step(step, tree_shardings(shapes, mesh))
