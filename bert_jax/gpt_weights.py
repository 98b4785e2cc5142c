"""GPT-2 models of `transformers` in and out, name by name."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from bert_jax import gpt_names
from bert_jax.gpt import Gpt
from bert_jax.gpt_config import GptConfig
from bert_jax.gpt_tasks import initial_params
from bert_jax.peer_config import GELUS
from bert_jax.tokenizer import Tokenizer
from core_jax.model_folders import check_fields, numbers_expected, read_fields, write_fields, write_folder
from core_jax.peer_names import check_tensors
from core_jax.safetensors_files import Tensors, read_tensors, write_tensors
from core_jax.sharding import by_path, nested
from core_jax.transformer import unstack_layers

KIND = "a GPT-2"
ARCHITECTURE = "GPT2LMHeadModel"  # class of `transformers`
SIZES = {  # ours -> theirs
    "vocab_size": "vocab_size",
    "width": "n_embd",
    "depth": "n_layer",
    "heads": "n_head",
    "maximum_positions": "n_positions",
}
OPTIONAL = {
    "norm_epsilon": "layer_norm_epsilon",
    "dropout": "resid_pdrop",
    "attention_dropout": "attn_pdrop",
    "initializer_range": "initializer_range",
}
# What this GPT does not do, and the value that leaves it out.
PLAIN = {
    "model_type": "gpt2",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
ACTIVATION = "activation_function"
TIED = "lm_head.weight"  # saved a second time by some versions
PREFIX = "transformer."
JUNK = (".attn.bias", ".attn.masked_bias")  # the causal mask and what it fills in, saved by some versions


@dataclasses.dataclass(frozen=True)
class ImportedGpt:
    """A GPT from elsewhere."""

    config: GptConfig  # of the unrolled model
    params: dict[str, Any]  # in our names and shapes, float32 on the host


def read_hf(folder: str | os.PathLike) -> ImportedGpt:
    """Reads a GPT-2 as `transformers` saves it: config.json, and model.safetensors or shards of it.

    Args:
      folder: that holds them.
    Raises:
      UserError: a file is missing or damaged, the model is no GPT-2, or its tensors are not those of its sizes: all
        that are missing, unknown or of another shape are listed.
    """
    folder = pathlib.Path(folder).expanduser()
    config = from_peer_config(folder / "config.json")
    return ImportedGpt(config, to_params(read_tensors(folder), config, str(folder)))


def write_hf(
    folder: str | os.PathLike, config: GptConfig, params: Mapping[str, Any], tokenizer: Tokenizer | None = None
) -> None:
    """Writes a GPT-2 that `transformers` opens: config.json, model.safetensors, vocabulary; all of it or nothing.

    Args:
      folder: to make.
      config: of the model.
      params: of the unrolled or scanned model, on the host or on devices.
      tokenizer: its vocabulary, if it is to be written. A SentencePiece is written as it is.
    Raises:
      UserError: the folder is not empty.
    """
    tensors = {PREFIX + name: value for name, value in gpt_names.to_peer(by_path(unrolled_params(params))).items()}

    def write(temporary: pathlib.Path) -> None:
        ends = {} if tokenizer is None else dict.fromkeys(("bos_token_id", "eos_token_id"), tokenizer.end_id)
        write_fields(temporary / "config.json", to_peer_config(config) | ends)
        write_tensors(temporary, tensors)
        if tokenizer is not None:
            tokenizer.save(temporary)

    write_folder(pathlib.Path(folder).expanduser(), write)


def unrolled_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of an unrolled or scanned model -> those of an unrolled one, on the host."""
    decoder = params["decoder"]
    decoder = unstack_layers(decoder) if "blocks" in decoder else decoder
    return jax.tree.map(np.asarray, {**params, "decoder": decoder})


def to_params(tensors: Tensors, config: GptConfig, source: str) -> dict[str, Any]:
    """Gives tensors our names and shapes.

    Args:
      tensors: by the peer's names, which may lack `transformer.`.
      config: that their shapes must fit.
      source: named in errors.
    Returns:
      A nested dict of float32.
    Raises:
      UserError: tensors are missing, unknown or of another shape; all are listed.
    """
    found = {name.removeprefix(PREFIX): value for name, value in tensors.items() if not name.endswith(JUNK)}
    tied, table = found.pop(TIED, None), found.get("wte.weight")
    differs = tied is not None and table is not None and not np.array_equal(tied, table)
    problems = [f"{TIED}: differs from wte.weight, to which it must be tied"] if differs else []
    leaves = by_path(jax.eval_shape(initial_params(Gpt(config)), jax.random.key(0)))
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    check_tensors(found, gpt_names.peer_shapes(shapes), source, KIND, problems)
    return nested(gpt_names.from_peer(found, shapes))


def from_peer_config(file: pathlib.Path) -> GptConfig:
    """Reads the sizes of a GPT-2.

    Args:
      file: config.json of `transformers`.
    Returns:
      The config of the unrolled model; what the file does not say is as in the original.
    Raises:
      UserError: the file cannot be read, lacks a size, or describes another model.
    """
    fields = read_fields(file, KIND)
    choices = {ACTIVATION: ("gelu_new", GELUS)}
    chosen = check_fields(fields, file, "this GPT", wanted=SIZES.values(), plain=PLAIN, choices=choices)
    values = {ours: fields[theirs] for ours, theirs in (SIZES | OPTIONAL).items() if theirs in fields}
    with numbers_expected(file, SIZES.values()):
        return GptConfig(
            **values, mlp_width=fields.get("n_inner") or 4 * values["width"], gelu=GELUS[chosen[ACTIVATION]]
        )


def to_peer_config(config: GptConfig) -> dict[str, Any]:
    """The fields of a config.json."""
    return {
        "architectures": [ARCHITECTURE],
        **PLAIN,
        **{theirs: getattr(config, ours) for ours, theirs in (SIZES | OPTIONAL).items()},
        "n_inner": config.mlp_width,
        "embd_pdrop": config.dropout,
        ACTIVATION: "gelu_new" if config.gelu == "tanh" else "gelu",
        "dtype": "float32",
    }
