"""Pretrained BERTs of other programs in and out, name by name.

Axes: D width, C classes.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bert_jax.config import BertConfig
from bert_jax.model import BertForPretraining, Head
from bert_jax.peer_config import KIND, PLAIN, from_peer_config, to_peer_config
from bert_jax.peer_names import our_path, peer_name
from bert_jax.tasks import initial_params
from bert_jax.tokenizer import Tokenizer, WordPiece
from bert_jax.tokenizer_files import load_tokenizer
from core_jax.errors import UserError
from core_jax.model_folders import read_fields, read_labels, write_fields, write_folder
from core_jax.peer_names import check_tensors, from_peer, peer_shape, to_peer
from core_jax.safetensors_files import FILE, Tensors, read_tensors, write_tensors
from core_jax.sharding import by_path, nested
from core_jax.transformer import unstack_layers

# Parts that a file may lack as a whole; the rest is in every BERT.
HEADS = ("bert/pooler", "token_prediction", "next_sentence_classifier", "classifier", "span_classifier")
ARCHITECTURES = {  # class of `transformers` -> those that it has
    "BertModel": ("bert/pooler",),
    "BertForPreTraining": ("bert/pooler", "token_prediction", "next_sentence_classifier"),
    "BertForMaskedLM": ("token_prediction",),
    "BertForNextSentencePrediction": ("bert/pooler", "next_sentence_classifier"),
    "BertForSequenceClassification": ("bert/pooler", "classifier"),
    "BertForMultipleChoice": ("bert/pooler", "classifier"),
    "BertForTokenClassification": ("classifier",),
    "BertForQuestionAnswering": ("span_classifier",),
}
LABEL_ARCHITECTURES: dict[Head, str] = {  # those of them that label, by what is labelled
    "classification": "BertForSequenceClassification",
    "regression": "BertForSequenceClassification",
    "token": "BertForTokenClassification",
    "span": "BertForQuestionAnswering",
    "choice": "BertForMultipleChoice",
}
TIED = {  # saved twice by some versions
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
JUNK = ("bert.embeddings.position_ids",)  # 0, 1, 2, ..., saved by some versions


@dataclasses.dataclass(frozen=True)
class Imported:
    """A BERT from elsewhere.

    Attributes:
      config: of the unrolled model.
      tokenizer: its vocabulary.
      params: in our names and shapes, float32 on the host: `bert` without or with `pooler`, and the heads it has.
      labels: names of the classes of `classifier`, where they are known.
      architecture: class of `transformers`, where the parameters alone do not tell it.
    """

    config: BertConfig
    tokenizer: Tokenizer
    params: dict[str, Any]
    labels: list[str] | None = None
    architecture: str | None = None


def read_hf(folder: str | os.PathLike) -> Imported:
    """Reads a BERT as `transformers` saves it: config.json, model.safetensors (or shards of it) and a vocabulary.

    Args:
      folder: that holds them.
    Returns:
      All that is there; a head or pooler that is not is no error.
    Raises:
      UserError: a file is missing or damaged, the model is no BERT, or its tensors are not those of its sizes: all
        that are missing, unknown or of another shape are listed.
    """
    folder = pathlib.Path(folder).expanduser()
    config = from_peer_config(folder / "config.json")
    params = to_params(read_tensors(folder), config, str(folder))
    fields = read_fields(folder / "config.json", KIND)
    labels = read_labels(fields, len(params["classifier"]["dense"]["bias"])) if "classifier" in params else None
    named = _label_architecture(fields)
    architecture = named if named and _heads_of(params).issuperset(ARCHITECTURES[named]) else None
    return Imported(config, _tokenizer(folder, config), params, labels, architecture)


def names_label_model(folder: str | os.PathLike) -> bool:
    """Whether a config.json says that its BERT labels texts; False where it cannot be read."""
    try:
        fields = read_fields(pathlib.Path(folder).expanduser() / "config.json", KIND)
    except UserError:
        return False
    return fields.get("model_type") == PLAIN["model_type"] and _label_architecture(fields) is not None


def _label_architecture(fields: Mapping[str, Any]) -> str | None:
    """The class that a config.json names: several have the same parameters, and older versions a pooler to spare."""
    return next((name for name in fields.get("architectures") or () if name in LABEL_ARCHITECTURES.values()), None)


def to_params(tensors: Tensors, config: BertConfig, source: str) -> dict[str, Any]:
    """Gives tensors our names and shapes.

    Args:
      tensors: by the peer's names, which may lack `bert.`, or say gamma and beta.
      config: that their shapes must fit.
      source: named in errors.
    Returns:
      A nested dict of float32.
    Raises:
      UserError: tensors are missing, unknown or of another shape; all are listed.
    """
    found = {_current_name(name): value for name, value in tensors.items()}
    problems = _untie(found)
    expected = dict(_expected(found, config))
    check_tensors(found, {name: peer_shape(*ours) for name, ours in expected.items()}, source, KIND, problems)
    return nested({path: from_peer(path, found[name], shape) for name, (path, shape) in expected.items()})


def write_hf(
    folder: str | os.PathLike,
    config: BertConfig,
    tokenizer: Tokenizer,
    params: Mapping[str, Any],
    architecture: str,
    labels: list[str] | None = None,
) -> None:
    """Writes a BERT that `transformers` opens: config.json, model.safetensors, vocabulary; all of it or nothing.

    Args:
      folder: to make.
      config: of the model.
      tokenizer: its vocabulary. A SentencePiece is written as it is; `transformers` has no tokenizer of BERT for it.
      params: of the unrolled or scanned model, on the host or on devices. What the architecture lacks is left out.
      architecture: one of `ARCHITECTURES`.
      labels: names of the classes of `classifier`.
    Raises:
      UserError: no such architecture, parameters that it needs are missing, or the folder is not empty.
    """
    folder = pathlib.Path(folder).expanduser()
    tensors = _peer_tensors(params, architecture)
    fields = to_peer_config(config, architecture, labels, tokenizer.pad_id)

    def write(temporary: pathlib.Path) -> None:
        write_fields(temporary / "config.json", fields)
        write_tensors(temporary, tensors)
        tokenizer.save(temporary)

    write_folder(folder, write)


def output_names(head: Head, classes: Sequence[str]) -> list[str] | None:
    """What the outputs of a head are called in config.json, which tells how many they are; None where all know it."""
    return ["LABEL_0"] if head == "regression" else list(classes) or None


def nested_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of an unrolled or scanned model -> those of an unrolled one, on the host."""
    encoder = params["bert"]["encoder"]
    encoder = unstack_layers(encoder) if "blocks" in encoder else encoder
    return jax.tree.map(np.asarray, {**params, "bert": {**params["bert"], "encoder": encoder}})


def architecture_of(params: Mapping[str, Any]) -> str:
    """The class of `transformers` that holds the most of some parameters."""
    there = _heads_of(params)
    fitting = [name for name, heads in ARCHITECTURES.items() if there.issuperset(heads)]
    if not fitting:
        raise UserError("the model has no pooler and no head that `transformers` knows: nothing to write or compare")
    return max(fitting, key=lambda name: len(ARCHITECTURES[name]))


def _heads_of(params: Mapping[str, Any]) -> set[str]:
    return {head for head in HEADS if head in params or (head == "bert/pooler" and "pooler" in params["bert"])}


def _head_of(path: str) -> str | None:
    return next((head for head in HEADS if path.startswith(head + "/")), None)


def _peer_tensors(params, architecture):
    if architecture not in ARCHITECTURES:
        raise UserError(f"architecture {architecture!r}: expected one of {', '.join(ARCHITECTURES)}")
    values: dict[str, np.ndarray] = by_path(nested_params(params))
    heads = ARCHITECTURES[architecture]
    if absent := [head for head in heads if head not in map(_head_of, values)]:
        raise UserError(f"{architecture} needs {', '.join(absent)}, which these parameters lack: choose another")
    named = {}
    for path, value in values.items():
        if _head_of(path) in (None, *heads):
            name = peer_name(path)
            name = name.removeprefix("bert.") if architecture == "BertModel" else name
            named[name] = to_peer(path, value, peer_shape(path, value.shape))
    return named


def _current_name(name: str) -> str:
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))
    return f"bert.{name}" if name.split(".")[0] in ("embeddings", "encoder", "pooler") else name


def _untie(found: Tensors) -> list[str]:
    """Takes out what is saved twice, and what is no parameter; says what should be equal and is not."""
    problems = []
    for name in JUNK:
        found.pop(name, None)
    for copy, original in TIED.items():
        if copy in found:
            value = found.pop(copy)
            if copy.endswith("bias"):
                found.setdefault(original, value)
            if original in found and not np.array_equal(found[original], value):
                problems.append(f"{copy}: differs from {original}, to which it must be tied")
    return problems


def _expected(found: Tensors, config: BertConfig) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    """The peer's names of the parameters that must be there, each with our path and shape."""
    there = {_head_of(path) for path in map(our_path, found) if path}
    shapes = jax.eval_shape(initial_params(BertForPretraining(config)), jax.random.key(0))
    ours = {path: leaf.shape for path, leaf in by_path(shapes).items()}
    weight = found.get("classifier.weight")
    classes = weight.shape[0] if weight is not None and weight.ndim == 2 else 1
    for head, outputs in (("classifier", classes), ("span_classifier", 2)):
        ours |= {f"{head}/dense/kernel": (config.width, outputs), f"{head}/dense/bias": (outputs,)}
    for path, shape in ours.items():
        if _head_of(path) in (None, *there):
            yield peer_name(path), (path, shape)


def _tokenizer(folder: pathlib.Path, config: BertConfig) -> Tokenizer:
    tokenizer = load_tokenizer(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"the vocabulary in {folder} has {tokenizer.vocab_size} pieces, but {FILE} embeds {config.vocab_size}: "
            "put the vocabulary that it was trained with beside it"
        )
    if isinstance(tokenizer, WordPiece) and tokenizer.vocab_size < config.vocab_size:
        return tokenizer.filled_up(config.vocab_size)
    return tokenizer
