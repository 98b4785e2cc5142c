"""How the parameters of the peer, BERT of `transformers`, are called, beside ours."""

from core_jax import peer_names

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


def _rows(ours: str, theirs: str) -> dict[str, str]:
    if "/embeddings/" in ours and not ours.endswith("norm"):
        return {f"{ours}/embedding": f"{theirs}.weight"}
    return (peer_names.norm if ours.endswith("norm") else peer_names.linear)(ours, theirs)


TABLE = {path: name for ours, theirs in MODULES.items() for path, name in _rows(ours, theirs).items()}


def peer_name(path: str) -> str:
    """The peer's name of our parameter, e.g. `bert/pooler/dense/kernel`."""
    return peer_names.peer_name(TABLE, path)


def our_path(name: str) -> str | None:
    """The inverse of `peer_name`; None for a name that is no parameter of BERT."""
    return peer_names.our_path(TABLE, name)
