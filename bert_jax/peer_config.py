"""The sizes of a BERT as other programs write them: config.json of `transformers`, bert_config.json of the original."""

import pathlib
from typing import Any, Literal

from bert_jax.config import BertConfig
from core_jax.model_folders import check_fields, label_fields, numbers_expected, read_fields
from core_jax.peer_names import PEER_GELUS

KIND = "a BERT"

SIZES = {  # ours -> theirs
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "maximum_positions": "max_position_embeddings",
}
OPTIONAL = {
    "type_vocab_size": "type_vocab_size",
    "norm_epsilon": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "initializer_range": "initializer_range",
}
GELUS: dict[str, Literal["erf", "tanh"]] = {"gelu": "erf", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
# What this BERT does not do, and the value that leaves it out.
PLAIN = {
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}


def from_peer_config(file: pathlib.Path, *, original: bool = False) -> BertConfig:
    """Reads the sizes of a BERT.

    Args:
      file: config.json of `transformers`, or bert_config.json.
      original: whether it is the latter, whose "gelu" is the tanh approximation.
    Returns:
      The config of the unrolled model; what the file does not say is as in the original.
    Raises:
      UserError: the file cannot be read, lacks a size, or describes another model.
    """
    fields = read_fields(file, KIND)
    choices = {"hidden_act": ("gelu", GELUS)}
    chosen = check_fields(fields, file, "this BERT", wanted=SIZES.values(), plain=PLAIN, choices=choices)
    values = {ours: fields[theirs] for ours, theirs in (SIZES | OPTIONAL).items() if theirs in fields}
    with numbers_expected(file, SIZES.values()):
        return BertConfig(**values, gelu="tanh" if original else GELUS[chosen["hidden_act"]])


def to_peer_config(config: BertConfig, architecture: str, labels: list[str] | None, pad_id: int) -> dict[str, Any]:
    """The fields of a config.json.

    Args:
      config: of the model.
      architecture: class of `transformers` that is to open it.
      labels: names of the classes, where it has them.
      pad_id: id of the padding token.
    """
    sizes = {theirs: getattr(config, ours) for ours, theirs in (SIZES | OPTIONAL).items()}
    return {
        "architectures": [architecture],
        **PLAIN,
        **sizes,
        "hidden_act": PEER_GELUS[config.gelu],
        "pad_token_id": pad_id,
        "tie_word_embeddings": True,
        "dtype": "float32",
        **label_fields(labels),
    }
