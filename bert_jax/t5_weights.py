"""T5 models of `transformers` in and out, name by name."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

from bert_jax.t5_vocabulary import T5Vocabulary, as_t5, read_t5_vocabulary
from bert_jax.tokenizer import Tokenizer
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
from core_jax.safetensors_files import Tensors, read_tensors

KIND = "a T5"
ARCHITECTURE = "T5ForConditionalGeneration"  # class of `transformers`
SIZES = {  # ours -> theirs
    "vocab_size": "vocab_size",
    "width": "d_model",
    "head_width": "d_kv",
    "mlp_width": "d_ff",
    "encoder_depth": "num_layers",
    "heads": "num_heads",
}
OPTIONAL = {  # ours -> theirs, and what they are where a file does not say
    "depth": ("num_decoder_layers", None),
    "relative_buckets": ("relative_attention_num_buckets", 32),
    "relative_distance": ("relative_attention_max_distance", 128),
    "dropout": ("dropout_rate", 0.1),
    "norm_epsilon": ("layer_norm_epsilon", 1e-6),
    "maximum_positions": ("n_positions", 512),  # which limits nothing there
    "pad_id": ("pad_token_id", 0),
    "start_id": ("decoder_start_token_id", 0),
    "end_id": ("eos_token_id", 1),
}
DROPOUTS = ("attention_dropout", "mlp_dropout")  # ours that are as much as `dropout`
PLAIN = {"model_type": "t5", "is_encoder_decoder": True}
# What all of them have in common.
COMMON: dict[str, Any] = {
    **{"norm": "pre", "norm_kind": "rms", "use_bias": False, "scale_queries": False},
    **{"positions": "relative", "scale_embedding": False, "starts_sources": False},
}
Mlp = tuple[Literal["plain", "gated"], Literal["erf", "tanh", "relu", "swish"]]
MLPS: dict[str, Mlp] = {  # their feed_forward_proj -> ours; that of `gated-gelu` is what they call gelu_new elsewhere
    "relu": ("plain", "relu"),
    "gated-gelu": ("gated", "tanh"),
    "gated-silu": ("gated", "swish"),
    "gated-relu": ("gated", "relu"),
    "gelu": ("plain", "erf"),
    "gelu_new": ("plain", "tanh"),
    "silu": ("plain", "swish"),
}
TABLE, OUTPUT = "shared.weight", "lm_head.weight"
TIED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # the table, saved again by some versions
# Of the attention to others, saved by some versions, and used by none.
JUNK = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)

_ATTENTION = {"query": "q", "key": "k", "value": "v", "out": "o"}


def _block(side: str, attentions: Mapping[str, str], mlp: Mapping[str, str]) -> dict[str, str]:
    rows: dict[str, str] = {}
    for place, (ours, theirs) in enumerate({**attentions, "mlp": "DenseReluDense"}.items()):
        block, layer = f"{side}/block_#", f"{side}.block.#.layer.{place}"
        names = mlp if ours == "mlp" else _ATTENTION
        rows |= {f"{block}/{ours}/{part}/kernel": f"{layer}.{theirs}.{peer}.weight" for part, peer in names.items()}
        rows[f"{block}/{ours}_norm/scale"] = f"{layer}.layer_norm.weight"
    rows[f"{side}/relative/embedding"] = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    return rows | {f"{side}/final_norm/scale": f"{side}.final_layer_norm.weight"}


def names_of(config: TranslationConfig) -> dict[str, str]:
    """Our path of each parameter -> their name; # is the number of a layer."""
    mlp = {"up": "wi", "down": "wo"} if config.mlp_kind == "plain" else {"gate": "wi_0", "up": "wi_1", "down": "wo"}
    return {
        "token/embedding": TABLE,
        "output_token/embedding": OUTPUT,
        **_block("encoder", {"attention": "SelfAttention"}, mlp),
        **_block("decoder", {"attention": "SelfAttention", "cross_attention": "EncDecAttention"}, mlp),
    }


def read_hf(folder: str | os.PathLike) -> ImportedTranslator:
    """Reads a T5 as `transformers` saves it: config.json, and model.safetensors or shards of it.

    Args:
      folder: that holds them.
    Raises:
      UserError: a file is missing or damaged, the model is no T5, or its tensors are not those of its sizes: all that
        are missing, unknown or of another shape are listed.
    """
    folder = pathlib.Path(folder).expanduser()
    config = from_peer_config(folder / "config.json")
    return ImportedTranslator(config, to_params(read_tensors(folder), config, str(folder)))


def read_vocabulary(folder: str | os.PathLike, config: TranslationConfig) -> T5Vocabulary:
    """Reads the vocabulary of a T5.

    Args:
      folder: that holds it.
      config: of the model there, whose table may be longer.
    Raises:
      UserError: there is none, or it is another than that of the model.
    """
    tokenizer = read_t5_vocabulary(pathlib.Path(folder).expanduser(), config.vocab_size)
    for name in ("pad_id", "end_id", "start_id"):
        ours, theirs = getattr(config, name), getattr(tokenizer, name)
        require(
            ours == theirs,
            f"{folder}: {OPTIONAL[name][0]} of its config.json is {ours}, but that of its vocabulary is {theirs}: "
            "expected the same",
        )
    return tokenizer


def write_hf(
    folder: str | os.PathLike,
    config: TranslationConfig,
    params: Mapping[str, Any],
    tokenizer: Tokenizer | None = None,
    search: BeamSettings | None = None,
) -> None:
    """Writes a T5 that `transformers` opens: config.json, model.safetensors and so on; all or nothing.

    Args:
      folder: to make.
      config: of the model.
      params: of the unrolled or scanned model, on the host or on devices.
      tokenizer: its vocabulary, if it is to be written.
      search: how `transformers` is to search, if that is to be written.
    Raises:
      UserError: the folder is not empty, or the peer knows no such model or vocabulary.
    """
    fields = to_peer_config(config)
    tensors = peer_tensors(params, functools.partial(peer_names.peer_name, names_of(config)))
    vocabulary = None if tokenizer is None else as_t5(tokenizer)
    write_translator(folder, fields, tensors, vocabulary, search_fields(config, search))


def to_params(tensors: Tensors, config: TranslationConfig, source: str) -> dict[str, Any]:
    """Gives tensors our names and shapes.

    Args:
      tensors: by the peer's names; of copies of the table there may be any.
      config: that their shapes must fit.
      source: named in errors.
    Returns:
      A nested dict of float32.
    Raises:
      UserError: tensors are missing, unknown or of another shape, or copies differ; all are listed.
    """
    own = {name: value for name, value in tensors.items() if name not in JUNK}
    found, problems = without_copies(own, TABLE, (*TIED, OUTPUT) if config.tied_output else TIED)
    if not config.tied_output and OUTPUT not in found and TABLE in found:
        found[OUTPUT] = found[TABLE]  # as they are saved while both are still the same
    return our_params(found, config, functools.partial(peer_names.peer_name, names_of(config)), source, KIND, problems)


def from_peer_config(file: pathlib.Path) -> TranslationConfig:
    """Reads the sizes of a T5.

    Args:
      file: config.json of `transformers`.
    Returns:
      The config of the unrolled model.
    Raises:
      UserError: the file cannot be read, lacks a size, or describes another model.
    """
    fields = read_fields(file, KIND)
    choices = {"feed_forward_proj": ("relu", MLPS)}
    chosen = check_fields(fields, file, "this translator", wanted=SIZES.values(), plain=PLAIN, choices=choices)
    values: dict[str, Any] = {ours: fields[theirs] for ours, theirs in SIZES.items()}
    for ours, (theirs, usual) in OPTIONAL.items():
        given = fields.get(theirs)
        values[ours] = usual if given is None else given
    values["depth"] = values["depth"] or values["encoder_depth"]
    # In both versions of the file a T5 1.1 says somewhere that it does not scale, and it has an output of its own.
    tied = fields.get("tie_word_embeddings") is not False and fields.get("scale_decoder_outputs") is not False
    values |= {"tied_output": tied, "scale_output": tied, **dict.fromkeys(DROPOUTS, values["dropout"])}
    kind, gelu = MLPS[chosen["feed_forward_proj"]]
    with numbers_expected(file, SIZES.values()):
        return TranslationConfig(**COMMON, **values, mlp_kind=kind, gelu=gelu, initializer="t5")


def to_peer_config(config: TranslationConfig) -> dict[str, Any]:
    """The fields of a config.json.

    Raises:
      UserError: the peer knows no such model.
    """
    problems = [
        f"--{name}={getattr(config, name)}: a T5 has {value} alone"
        for name, value in COMMON.items()
        if getattr(config, name) != value
    ]
    mlp = next((name for name, ours in MLPS.items() if ours == (config.mlp_kind, config.gelu)), None)
    if mlp is None:
        problems.append(f"--mlp_kind={config.mlp_kind} with --gelu={config.gelu}: a T5 has none such")
    if config.tied_output != config.scale_output:
        problems.append("--tied_output and --scale_output: a T5 has both or neither")
    require(not problems, "\n  ".join(("no T5 of transformers is such a model:", *problems)))
    sized = dataclasses.replace(config, head_width=config.head_size)
    return {
        "architectures": [ARCHITECTURE],
        **PLAIN,
        **{theirs: getattr(sized, ours) for ours, theirs in SIZES.items()},
        **{theirs: getattr(config, ours) for ours, (theirs, _) in OPTIONAL.items()},
        "feed_forward_proj": mlp,
        "tie_word_embeddings": config.tied_output,
        "dtype": "float32",
    }
