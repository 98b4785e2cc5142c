"""Pretrained BERTs in and out: folders of Hugging Face `transformers`, and the original TensorFlow checkpoints."""

import dataclasses
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import PyTree

from bert_jax.config import BertConfig
from bert_jax.model import Bert
from bert_jax.peer_names import PEER_GELUS, from_peer, our_path, peer_name, to_peer
from bert_jax.tokenizer import Tokenizer, load_tokenizer
from core_jax.config import require
from core_jax.errors import UserError
from core_jax.sharding import path_name
from core_jax.transformer import unstack_layers

GELUS = {theirs: ours for ours, theirs in PEER_GELUS.items()} | {"gelu_new": "tanh"}
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
IGNORED = re.compile(r"(bert\.)?embeddings\.(position_ids|token_type_ids)")
DECODER = {"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"}
DECODER["cls.predictions.decoder.bias"] = "cls.predictions.bias"
FIELDS = {  # ours -> of config.json
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "vocab_size": "vocab_size",
    "maximum_positions": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "norm_epsilon": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "initializer_range": "initializer_range",
}


@dataclasses.dataclass(frozen=True)
class Imported:
    """A pretrained BERT from elsewhere."""

    config: BertConfig
    tokenizer: Tokenizer
    params: dict[str, Any]  # of NumPy arrays: "bert", and the heads that are there
    classes: list[str] | None = None  # names of a classifier's outputs


def read_hf(folder: str) -> Imported:
    """Reads a folder that `transformers` has written: config.json, model.safetensors and a vocabulary.

    Args:
      folder: its path.
    Raises:
      UserError: something is missing, damaged, of another kind of model, or only a pickle, which is never loaded.
    """
    require(os.path.isdir(folder), f"hf:{folder} is not a folder; expected one with config.json and {WEIGHTS}")
    fields = _read_json(os.path.join(folder, "config.json"))
    config = config_from_hf(fields, f"{folder}/config.json")
    tensors = _own_names(_read_tensors(folder))
    params = _assembled(tensors, config, folder)
    names = fields.get("id2label")
    classes = [names[key] for key in sorted(names, key=int)] if names else None
    tokenizer = load_tokenizer(folder)
    require(
        tokenizer.vocab_size <= config.vocab_size,
        f"{folder}: its tokenizer has {tokenizer.vocab_size} pieces, the model {config.vocab_size}; "
        "put the vocabulary that belongs to the model beside it",
    )
    return Imported(config, tokenizer, params, classes)


def config_from_hf(fields: Mapping[str, Any], place: str) -> BertConfig:
    """The sizes of a model from its config.json.

    Raises:
      UserError: it is none that is computed here.
    """
    kind = fields.get("model_type", "bert")
    require(kind == "bert", f"{place}: model_type is {kind!r}; expected 'bert'")
    position = fields.get("position_embedding_type", "absolute")
    require(position == "absolute", f"{place}: position_embedding_type is {position!r}; expected 'absolute'")
    for name in ("is_decoder", "add_cross_attention"):
        require(not fields.get(name), f"{place}: {name} is true; expected an encoder")
    activation = fields.get("hidden_act", "gelu")
    require(
        activation in GELUS, f"{place}: hidden_act is {activation!r}; expected one of {', '.join(GELUS)}"
    )
    missing = [theirs for theirs in list(FIELDS.values())[:4] if theirs not in fields]
    require(not missing, f"{place} lacks {', '.join(missing)}")
    known = {ours: fields[theirs] for ours, theirs in FIELDS.items() if theirs in fields}
    return BertConfig(**known, gelu=GELUS[activation])


def config_to_hf(config: BertConfig, pad_id: int) -> dict[str, Any]:
    """config.json of a model, without what depends on its head."""
    fields: dict[str, Any] = {theirs: getattr(config, ours) for ours, theirs in FIELDS.items()}
    fixed = {"model_type": "bert", "position_embedding_type": "absolute", "pad_token_id": pad_id}
    return fields | fixed | {"hidden_act": PEER_GELUS[config.gelu], "dtype": "float32", "use_cache": True}


def _read_json(path):
    require(os.path.exists(path), f"{path} is missing; expected a folder that `save_pretrained` has written")
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    require(isinstance(content, dict), f"{path}: expected a JSON object")
    return content


def _read_tensors(folder):
    path, index = os.path.join(folder, WEIGHTS), os.path.join(folder, INDEX)
    if os.path.exists(path):
        files = [path]
    elif os.path.exists(index):
        files = sorted({os.path.join(folder, name) for name in _read_json(index).get("weight_map", {}).values()})
    else:
        found = sorted(name for name in os.listdir(folder) if name.endswith(tuple(p[1:] for p in PICKLES)))
        hint = f" {found[0]} is a pickle, which can run any program and is never loaded." if found else ""
        raise UserError(
            f"{folder} holds no {WEIGHTS}.{hint} Where the model comes from, type: "
            "AutoModel.from_pretrained(DIR).save_pretrained(NEW_DIR, safe_serialization=True)"
        )
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        require(os.path.exists(file), f"{file} is missing, which {INDEX} names")
        try:
            with safetensors.safe_open(file, framework="flax") as opened:  # NumPy knows no bfloat16
                tensors |= {name: np.asarray(opened.get_tensor(name)) for name in opened.keys()}  # noqa: SIM118
        except (safetensors.SafetensorError, OSError) as error:
            raise UserError(f"{file} is damaged: {error}. Fetch it again") from None
    return tensors


def _own_names(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Older names as newer ones, without what is no parameter, and tied copies compared and dropped."""
    renamed = {}
    for name, value in tensors.items():
        if IGNORED.fullmatch(name):
            continue
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
        name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
        if name.startswith(("embeddings.", "encoder.", "pooler.")):
            name = f"bert.{name}"
        renamed[name] = value.astype(np.float32)
    for copy, original in DECODER.items():
        if copy in renamed and original in renamed:
            same = np.array_equal(renamed.pop(copy), renamed[original])
            require(same, f"{copy} differs from {original}; expected a decoder that shares the token embeddings")
    return renamed


def _assembled(tensors: Mapping[str, np.ndarray], config: BertConfig, place: str) -> dict[str, Any]:
    """Our tree of parameters.

    Raises:
      UserError: lists every tensor that is missing, unknown or of another shape.
    """
    expected = encoder_shapes(config)
    problems, params = [], {}
    for name, value in sorted(tensors.items()):
        path = our_path(name)
        shape = None if path is None else expected.pop(path, None) or _head_shape(path, config, value)
        if path is None or shape is None:
            problems.append(f"unknown: {name} {value.shape}")
            continue
        wanted = to_peer(path, np.empty(shape, np.bool_), _peer_shape(path, shape)).shape
        if value.shape != wanted:
            problems.append(f"{name}: {value.shape}, expected {wanted}")
            continue
        branch = params
        *parents, leaf = path.split("/")
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = from_peer(path, value, shape)
    problems += [f"missing: {peer_name(path)}" for path in expected if not path.startswith("bert/pooler")]
    if problems:
        raise UserError(f"the weights in {place} do not fit its config.json:\n  " + "\n  ".join(problems))
    return params


def encoder_shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of `Bert`, unrolled, by its path."""
    model = Bert(dataclasses.replace(config, scan_layers=False))
    nothing = jax.ShapeDtypeStruct((1, 8), np.int32)
    shapes = jax.eval_shape(lambda *x: model.init(jax.random.key(0), *x)["params"], nothing, nothing, nothing)
    return {f"bert/{path_name(path)}": leaf.shape for path, leaf in jax.tree.leaves_with_path(shapes)}


def _head_shape(path: str, config: BertConfig, value: np.ndarray) -> tuple[int, ...] | None:
    """Of a head's parameter; the number of classes is the file's own."""
    width, classes = config.width, value.shape[0] if value.ndim else 1
    return {
        "token_prediction/transform/kernel": (width, width),
        "token_prediction/transform/bias": (width,),
        "token_prediction/norm/scale": (width,),
        "token_prediction/norm/bias": (width,),
        "token_prediction/bias": (config.vocab_size,),
        "next_sentence_classifier/dense/kernel": (width, 2),
        "next_sentence_classifier/dense/bias": (2,),
        "classifier/dense/kernel": (width, classes),
        "classifier/dense/bias": (classes,),
        "span_classifier/dense/kernel": (width, 2),
        "span_classifier/dense/bias": (2,),
    }.get(path)


def _peer_shape(path: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of an array of ours on the peer's side."""
    if path.endswith("kernel"):
        if len(shape) == 3:  # heads are an axis of their own here
            merges = path.endswith("out/kernel")
            shape = (shape[0] * shape[1], shape[2]) if merges else (shape[0], shape[1] * shape[2])
        return tuple(shape[::-1])
    return (int(np.prod(shape)),) if path.endswith("bias") else tuple(shape)


def flat_tensors(params: PyTree) -> dict[str, np.ndarray]:
    """Our parameters, unrolled or scanned, under the peer's names and in its shapes."""
    encoder = params["bert"]["encoder"]
    if "blocks" in encoder:
        params = params | {"bert": params["bert"] | {"encoder": unstack_layers(encoder)}}
    tensors = {}
    for path, leaf in jax.tree.leaves_with_path(params):
        name, value = path_name(path), np.asarray(leaf, np.float32)
        tensors[peer_name(name)] = np.ascontiguousarray(to_peer(name, value, _peer_shape(name, value.shape)))
    return tensors


def write_hf(
    folder: str,
    config: BertConfig,
    tokenizer: Tokenizer,
    params: PyTree,
    architecture: str,
    classes: Sequence[str] = (),
) -> None:
    """Writes a folder that `transformers` opens: complete, or not at all.

    Args:
      folder: must not exist, or be empty.
      config: of the model.
      tokenizer: of the model; WordPiece writes vocab.txt and tokenizer.json.
      params: with "bert" and the heads of the architecture.
      architecture: class of `transformers` that it opens as, such as BertForPreTraining.
      classes: names of a classifier's outputs.
    Raises:
      UserError: the folder holds something.
    """
    require(
        not os.path.exists(folder) or (os.path.isdir(folder) and not os.listdir(folder)),
        f"hf:{folder} is there already and not empty; choose a new folder",
    )
    temporary = f"{folder.rstrip('/')}.{uuid.uuid4().hex}"
    os.makedirs(temporary)
    try:
        fields = config_to_hf(config, tokenizer.pad_id) | {"architectures": [architecture]}
        if classes:
            fields["id2label"] = {str(number): name for number, name in enumerate(classes)}
            fields["label2id"] = {name: number for number, name in enumerate(classes)}
        with open(os.path.join(temporary, "config.json"), "w", encoding="utf-8") as file:
            json.dump(fields, file, indent=2)
        tensors = flat_tensors(params)
        if architecture == "BertModel":
            tensors = {name.removeprefix("bert."): value for name, value in tensors.items()}
        safetensors.numpy.save_file(tensors, os.path.join(temporary, WEIGHTS), metadata={"format": "pt"})
        tokenizer.save(temporary)
        if os.path.isdir(folder):
            os.rmdir(folder)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def architecture_of(params: PyTree, head: str = "") -> str:
    """The class of `transformers` that has these heads; `head` tells the four that share a name apart."""
    by_head = {
        "classification": "BertForSequenceClassification",
        "regression": "BertForSequenceClassification",
        "token": "BertForTokenClassification",
        "span": "BertForQuestionAnswering",
        "choice": "BertForMultipleChoice",
    }
    if head:
        return by_head[head]
    if "span_classifier" in params:
        return by_head["span"]
    if "token_prediction" in params:
        return "BertForPreTraining" if "next_sentence_classifier" in params else "BertForMaskedLM"
    if "next_sentence_classifier" in params:
        return "BertForNextSentencePrediction"
    return by_head["classification"] if "classifier" in params else "BertModel"


def read_tf(prefix: str) -> Imported:
    """Reads a checkpoint of google-research/bert: PREFIX.index and .data, with bert_config.json and vocab.txt beside.

    Raises:
      UserError: a file or TensorFlow is missing, or the tensors do not fit.
    """
    folder = os.path.dirname(prefix) or "."
    require(os.path.exists(f"{prefix}.index"), f"tf:{prefix}: there is no {prefix}.index; expected a checkpoint's prefix")
    fields = _read_json(os.path.join(folder, "bert_config.json"))
    # There "gelu" is the tanh approximation (modeling.py of google-research/bert).
    fields = {"layer_norm_eps": 1e-12} | fields | {"hidden_act": "gelu_new" if fields.get("hidden_act", "gelu") == "gelu" else fields["hidden_act"]}
    config = config_from_hf(fields, f"{folder}/bert_config.json")
    try:
        import tensorflow
    except ImportError:
        raise UserError("a TensorFlow checkpoint needs TensorFlow to be read. Type: pip install -e '.[prepare]'") from None
    reader = tensorflow.train.load_checkpoint(prefix)
    names = list(reader.get_variable_to_shape_map())
    return Imported(config, load_tokenizer(folder), params_from_tf(names, reader.get_tensor, config, prefix))


def params_from_tf(
    names: Iterable[str], read: Callable[[str], np.ndarray], config: BertConfig, place: str
) -> dict[str, Any]:
    """Our parameters from variables under the names of google-research/bert.

    Args:
      names: of all variables; those of the optimizer are left out.
      read: name -> value.
      config: of the model.
      place: for messages.
    """
    tensors = {}
    for name in names:
        if name.endswith(("adam_m", "adam_v", "global_step")):
            continue
        value, theirs = np.asarray(read(name)), tf_to_peer(name)
        tensors[theirs] = value.T if name.endswith("/kernel") else value
    return _assembled(_own_names(tensors), config, place)


def tf_to_peer(name: str) -> str:
    """A variable's name in google-research/bert -> that of `transformers`."""
    fixed = {
        "cls/predictions/output_bias": "cls.predictions.bias",
        "cls/seq_relationship/output_weights": "cls.seq_relationship.weight",
        "cls/seq_relationship/output_bias": "cls.seq_relationship.bias",
        "output_weights": "classifier.weight",
        "output_bias": "classifier.bias",
    }
    if name in fixed:
        return fixed[name]
    theirs = re.sub(r"layer_(\d+)", r"layer.\1", name).replace("/", ".")
    theirs = re.sub(r"\.kernel$", ".weight", theirs)
    return re.sub(r"_embeddings$", "_embeddings.weight", theirs)
