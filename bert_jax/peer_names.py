"""How the parameters of the peer, BERT of `transformers`, are called and shaped, beside ours. NumPy only."""

import math
import re

import numpy as np

PEER_GELUS = {"erf": "gelu", "tanh": "gelu_pytorch_tanh"}
MODULES = {  # ours -> the peer's; # is the number of a layer
    "bert/embeddings/token": "bert.embeddings.word_embeddings",
    "bert/embeddings/position": "bert.embeddings.position_embeddings",
    "bert/embeddings/type": "bert.embeddings.token_type_embeddings",
    "bert/embeddings/norm": "bert.embeddings.LayerNorm",
    "bert/encoder/block_#/attention/query": "bert.encoder.layer.#.attention.self.query",
    "bert/encoder/block_#/attention/key": "bert.encoder.layer.#.attention.self.key",
    "bert/encoder/block_#/attention/value": "bert.encoder.layer.#.attention.self.value",
    "bert/encoder/block_#/attention/out": "bert.encoder.layer.#.attention.output.dense",
    "bert/encoder/block_#/attention_norm": "bert.encoder.layer.#.attention.output.LayerNorm",
    "bert/encoder/block_#/mlp/up": "bert.encoder.layer.#.intermediate.dense",
    "bert/encoder/block_#/mlp/down": "bert.encoder.layer.#.output.dense",
    "bert/encoder/block_#/mlp_norm": "bert.encoder.layer.#.output.LayerNorm",
    "bert/pooler/dense": "bert.pooler.dense",
    "token_prediction": "cls.predictions",
    "token_prediction/transform": "cls.predictions.transform.dense",
    "token_prediction/norm": "cls.predictions.transform.LayerNorm",
    "next_sentence_classifier/dense": "cls.seq_relationship",
    "classifier/dense": "classifier",  # of sequences, tokens, or choices
    "span_classifier/dense": "qa_outputs",
}
PEER_MODULES = {theirs: ours for ours, theirs in MODULES.items()}


def peer_name(path: str) -> str:
    """The peer's name of our parameter, e.g. `bert/pooler/dense/kernel`."""
    module, leaf = path.rsplit("/", 1)
    layer = re.search(r"(?<=block_)\d+", module)
    name = MODULES[re.sub(r"(?<=block_)\d+", "#", module)] + (".bias" if leaf == "bias" else ".weight")
    return name.replace("#", layer[0]) if layer else name


def our_path(name: str) -> str | None:
    """The inverse of `peer_name`; None for a name that is no parameter of BERT."""
    module, _, leaf = name.rpartition(".")
    layer = re.search(r"(?<=layer\.)\d+", module)
    ours = PEER_MODULES.get(re.sub(r"(?<=layer\.)\d+", "#", module))
    if ours is None or leaf not in ("weight", "bias"):
        return None
    if leaf == "weight":
        leaf = "scale" if ours.endswith("norm") else "embedding" if "/embeddings/" in ours else "kernel"
    path = f"{ours}/{leaf}"
    path = path.replace("#", layer[0]) if layer else path
    return path if peer_name(path) == name else None


def peer_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The peer's shape of our parameter of a shape; the axes of heads are joined."""
    if path.endswith("kernel"):
        inputs = len(shape) - 1 if path.endswith("out/kernel") else 1
        return math.prod(shape[inputs:]), math.prod(shape[:inputs])
    return (math.prod(shape),) if path.endswith("bias") else shape


def to_peer(path: str, ours: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Our array in the peer's shape: a linear layer is transposed there and knows no axis of heads."""
    return ours.reshape(shape[::-1]).T if path.endswith("kernel") else ours.reshape(shape)


def from_peer(path: str, theirs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `to_peer`; `shape` is ours."""
    return (theirs.T if path.endswith("kernel") else theirs).reshape(shape)
