"""How the parameters of BERT are called and shaped in `transformers` (on disk), beside ours. NumPy only."""

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
    "classifier/dense": "classifier",
    "span_classifier/dense": "qa_outputs",
}


def our_path(name: str) -> str | None:
    """Our path of the peer's parameter, the inverse of `peer_name`; None where we have none of that name."""
    module, _, leaf = name.rpartition(".")
    layer = re.search(r"(?<=layer\.)\d+", module)
    numbered = re.sub(r"(?<=layer\.)\d+", "#", module)
    ours = next((ours for ours, theirs in MODULES.items() if theirs == numbered), None)
    if ours is None or leaf not in ("weight", "bias"):
        return None
    table = "embeddings/" in ours and not ours.endswith("norm")
    weight = "embedding" if table else "scale" if ours.endswith("norm") else "kernel"
    ours = ours.replace("#", layer[0]) if layer else ours
    path = f"{ours}/{'bias' if leaf == 'bias' else weight}"
    return path if peer_name(path) == name and not (table and leaf == "bias") else None


def peer_name(path: str) -> str:
    """The peer's name of our parameter, e.g. `bert/pooler/dense/kernel`."""
    module, leaf = path.rsplit("/", 1)
    layer = re.search(r"(?<=block_)\d+", module)
    name = MODULES[re.sub(r"(?<=block_)\d+", "#", module)] + (".bias" if leaf == "bias" else ".weight")
    return name.replace("#", layer[0]) if layer else name


def to_peer(path: str, ours: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Our array in the peer's shape: a linear layer is transposed there and knows no axis of heads."""
    return ours.reshape(shape[::-1]).T if path.endswith("kernel") else ours.reshape(shape)


def from_peer(path: str, theirs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `to_peer`; `shape` is ours."""
    return (theirs.T if path.endswith("kernel") else theirs).reshape(shape)
