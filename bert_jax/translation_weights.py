"""Marian models of `transformers` in and out, name by name."""

import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from bert_jax.marian_vocabulary import as_marian
from bert_jax.tokenizer import Tokenizer
from bert_jax.tokenizer_files import load_tokenizer
from bert_jax.translation_config import TranslationConfig
from bert_jax.translator_files import (
    ImportedTranslator,
    our_params,
    peer_tensors,
    search_fields,
    without_copies,
    write_translator,
)
from core_jax import peer_names
from core_jax.beam_search import BeamSettings
from core_jax.config import require
from core_jax.model_folders import check_fields, numbers_expected, read_fields
from core_jax.peer_names import linear, norm
from core_jax.safetensors_files import Tensors, read_tensors

KIND = "a Marian translator"
ARCHITECTURE = "MarianMTModel"  # class of `transformers`
SIZES = {  # ours -> theirs
    "vocab_size": "vocab_size",
    "width": "d_model",
    "encoder_depth": "encoder_layers",
    "depth": "decoder_layers",
    "heads": "encoder_attention_heads",
    "mlp_width": "encoder_ffn_dim",
    "maximum_positions": "max_position_embeddings",
    "pad_id": "pad_token_id",
    "start_id": "decoder_start_token_id",
    "end_id": "eos_token_id",
}
OPTIONAL = {
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "initializer_range": "init_std",
    "scale_embedding": "scale_embedding",
}
# What this translator does not do, and the value that leaves it out.
PLAIN = {
    "model_type": "marian",
    "share_encoder_decoder_embeddings": True,
    "tie_word_embeddings": True,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
}
ALIKE = (("decoder_attention_heads", "encoder_attention_heads"), ("decoder_ffn_dim", "encoder_ffn_dim"))
ACTIVATIONS: dict[str, Literal["erf", "tanh", "relu", "swish"]] = {
    "relu": "relu",
    "swish": "swish",
    "silu": "swish",
    "gelu": "erf",
    "gelu_new": "tanh",
}
TABLE = "model.shared.weight"
# Saved a second time by some versions: the table under other names, and the waves of the positions.
TIED = ("lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")
WAVES = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")
BIAS = "final_logits_bias"

_ATTENTION = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}


def _block(ours: str, theirs: str, attentions: Mapping[str, str]) -> dict[str, str]:
    rows: dict[str, str] = {}
    for name, peer in attentions.items():
        for ours_part, theirs_part in _ATTENTION.items():
            rows |= linear(f"{ours}/{name}/{ours_part}", f"{theirs}.{peer}.{theirs_part}")
        rows |= norm(f"{ours}/{name}_norm", f"{theirs}.{peer}_layer_norm")
    rows |= linear(f"{ours}/mlp/up", f"{theirs}.fc1") | linear(f"{ours}/mlp/down", f"{theirs}.fc2")
    return rows | norm(f"{ours}/mlp_norm", f"{theirs}.final_layer_norm")


NAMES = {
    "token/embedding": TABLE,
    "bias": BIAS,
    **_block("encoder/block_#", "model.encoder.layers.#", {"attention": "self_attn"}),
    **_block(
        "decoder/block_#", "model.decoder.layers.#", {"attention": "self_attn", "cross_attention": "encoder_attn"}
    ),
}


def read_hf(folder: str | os.PathLike) -> ImportedTranslator:
    """Reads a Marian model as `transformers` saves it: config.json, and model.safetensors or shards of it.

    Args:
      folder: that holds them.
    Raises:
      UserError: a file is missing or damaged, the model is no Marian, or its tensors are not those of its sizes: all
        that are missing, unknown or of another shape are listed.
    """
    folder = pathlib.Path(folder).expanduser()
    config = from_peer_config(folder / "config.json")
    return ImportedTranslator(config, to_params(read_tensors(folder), config, str(folder)))


def read_vocabulary(folder: str | os.PathLike, config: TranslationConfig) -> Tokenizer:
    """Reads the vocabulary of a Marian model.

    Args:
      folder: that holds it.
      config: of the model there.
    Raises:
      UserError: there is none, or it is another than that of the model.
    """
    tokenizer = load_tokenizer(pathlib.Path(folder).expanduser())
    for name in ("vocab_size", "pad_id", "end_id", "start_id"):
        ours, theirs = getattr(config, name), getattr(tokenizer, name)
        require(
            ours == theirs,
            f"{folder}: {SIZES[name]} of its config.json is {ours}, but that of its vocabulary is {theirs}: expected "
            f"the same; a piece that starts translations is named by bos_token in its tokenizer_config.json",
        )
    return tokenizer


def write_hf(
    folder: str | os.PathLike,
    config: TranslationConfig,
    params: Mapping[str, Any],
    tokenizer: Tokenizer | None = None,
    search: BeamSettings | None = None,
) -> None:
    """Writes a Marian model that `transformers` opens: config.json, model.safetensors and so on; all or nothing.

    Args:
      folder: to make.
      config: of the model.
      params: of the unrolled or scanned model, on the host or on devices.
      tokenizer: its vocabulary, if it is to be written.
      search: how `transformers` is to search, if that is to be written.
    Raises:
      UserError: the folder is not empty, or the peer knows no such model or vocabulary.
    """
    require(
        config.norm == "post" and config.norm_epsilon == 1e-5,
        f"--norm={config.norm} with --norm_epsilon={config.norm_epsilon}: a Marian has post and 1e-5 alone",
    )
    require(config.positions == "waves", f"--positions={config.positions}: a Marian has waves alone")
    tensors = peer_tensors(params, functools.partial(peer_names.peer_name, NAMES))
    vocabulary = None if tokenizer is None else as_marian(tokenizer)
    write_translator(folder, to_peer_config(config), tensors, vocabulary, search_fields(config, search))


def to_params(tensors: Tensors, config: TranslationConfig, source: str) -> dict[str, Any]:
    """Gives tensors our names and shapes.

    Args:
      tensors: by the peer's names; of copies of the table and of the waves of positions there may be any.
      config: that their shapes must fit.
      source: named in errors.
    Returns:
      A nested dict of float32.
    Raises:
      UserError: tensors are missing, unknown or of another shape, or copies differ; all are listed.
    """
    own = {name: value for name, value in tensors.items() if name not in WAVES}
    found, problems = without_copies(own, TABLE, TIED)
    found.setdefault(BIAS, np.zeros((1, config.vocab_size), np.float32))
    return our_params(found, config, functools.partial(peer_names.peer_name, NAMES), source, KIND, problems)


def from_peer_config(file: pathlib.Path) -> TranslationConfig:
    """Reads the sizes of a Marian model.

    Args:
      file: config.json of `transformers`.
    Returns:
      The config of the unrolled model.
    Raises:
      UserError: the file cannot be read, lacks a size, or describes another model.
    """
    fields = read_fields(file, KIND)
    problems = [
        f"{name} is {fields[name]!r}, expected that of {other}, {fields.get(other)!r}"
        for name, other in ALIKE
        if fields.get(name, fields.get(other)) != fields.get(other)
    ]
    choices = {"activation_function": ("gelu", ACTIVATIONS)}
    chosen = check_fields(
        fields, file, "this translator", wanted=SIZES.values(), plain=PLAIN, choices=choices, problems=problems
    )
    values = {ours: fields[theirs] for ours, theirs in (SIZES | OPTIONAL).items() if theirs in fields}
    with numbers_expected(file, SIZES.values()):
        return TranslationConfig(**values, gelu=ACTIVATIONS[chosen["activation_function"]])


def to_peer_config(config: TranslationConfig) -> dict[str, Any]:
    """The fields of a config.json."""
    activation = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.gelu)
    return {
        "architectures": [ARCHITECTURE],
        **PLAIN,
        **{theirs: getattr(config, ours) for ours, theirs in (SIZES | OPTIONAL).items()},
        **{theirs: getattr(config, name) for name, (theirs, _) in zip(("heads", "mlp_width"), ALIKE, strict=True)},
        "decoder_vocab_size": config.vocab_size,
        "forced_eos_token_id": config.end_id,
        "is_encoder_decoder": True,
        "activation_function": activation,
        "dtype": "float32",
    }
