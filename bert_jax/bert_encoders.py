"""Translators whose encoder starts from a pretrained BERT: what its sizes, vocabulary and parameters give them.

The decoder is fresh and of BERT's sizes; it shares the table of tokens with the encoder and its output.
Source: BERT2RND of Rothe et al. 2020, https://arxiv.org/abs/1907.12461
"""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from bert_jax.config import BertConfig
from bert_jax.prepared_text import is_foreign
from bert_jax.starting_points import open_starting_point
from bert_jax.starting_weights import architecture_of, read_foreign
from bert_jax.tokenizer import Tokenizer
from bert_jax.tokenizer_files import load_tokenizer
from bert_jax.translation_config import Translation, TranslationConfig
from bert_jax.weights import nested_params
from core_jax.config import adopt_fields, require
from core_jax.sharding import by_path
from core_jax.transformer import stack_layers

SIZES = (
    *("width", "heads", "mlp_width", "vocab_size", "maximum_positions", "type_vocab_size"),
    *("norm", "norm_epsilon", "gelu", "initializer_range"),
)
# What a T5 does and no BERT.
PLAIN = {
    **{"norm_kind": "layer", "mlp_kind": "plain", "use_bias": True, "head_width": 0, "scale_queries": True},
    **{"tied_output": True, "scale_output": False},
}


def adopt_encoder(config: Translation, report: Callable[[str], None]) -> Translation:
    """The configuration with the sizes of the BERT that --init_encoder names, where one is named.

    Args:
      config: from the command line.
      report: is told which sizes differed.
    Raises:
      UserError: the sizes cannot be read, or do not go with the rest.
    """
    if not config.init_encoder:
        return config
    theirs = architecture_of(config.init_encoder)
    found: dict[str, Any] = {name: getattr(theirs, name) for name in SIZES}
    found |= PLAIN | {
        "encoder_depth": theirs.depth,
        "positions": "learned",
        "starts_sources": True,
        "scale_embedding": False,
    }
    named = dataclasses.replace(config, init=config.init_encoder, init_encoder="")  # which `adopt_fields` speaks of
    adopted = adopt_fields(named, {"model": found}, report)
    return dataclasses.replace(adopted, init="", init_encoder=config.init_encoder)


def open_vocabulary(place: str) -> Tokenizer:
    """The vocabulary of a BERT: hf:DIR, tf:PREFIX or a work folder."""
    return read_foreign(place).tokenizer if is_foreign(place) else load_tokenizer(os.path.join(place, "tokenizer"))


def encoder_params(place: str, model: TranslationConfig, mesh: Mesh, report: Callable[[str], None]) -> dict[str, Any]:
    """The parameters of a translator that a BERT has: its encoder and its embeddings, by path.

    Args:
      place: hf:DIR, tf:PREFIX or a work folder.
      model: of the translator, with the sizes of the BERT; it may be scanned.
      mesh: where the parameters of a work folder are read to.
      report: is told about checkpoints that cannot be used.
    Raises:
      UserError: there are none, or they are of another model.
    """
    start = open_starting_point(place, mesh, 1, report)
    sizes = {name: getattr(start.config, name, None) for name in SIZES}
    wanted = {name: getattr(model, name) for name in SIZES}
    fits = isinstance(start.config, BertConfig) and sizes == wanted and start.config.depth == model.encoder_depth
    require(fits, f"--init_encoder={place} is no BERT of this translator's sizes; expected the one that it began with")
    bert = nested_params(start.params)["bert"]
    encoder = jax.device_get(stack_layers(bert["encoder"])) if model.scan_layers else bert["encoder"]
    return by_path({"embeddings": bert["embeddings"], "encoder": encoder})
