"""Our BERT beside that of `transformers`, with the same weights on the same inputs.

Axes: B batch, T positions, D width.
"""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import numpy as np

from bert_jax.config import BertConfig
from bert_jax.model import Bert, BertForPretraining
from bert_jax.weights import ARCHITECTURES, Imported
from core_jax.errors import UserError
from core_jax.transformer import Block

LARGEST = 1e-4  # difference of an output that still counts as the same
ROWS, LONGEST = 4, 64
LOGITS = {"prediction_logits": "token_prediction", "seq_relationship_logits": "next_sentence_classifier"}
Outputs = dict[str, np.ndarray]


def random_inputs(config: BertConfig, seed: int = 0) -> Outputs:
    """Random rows of tokens, all but the first padded: tokens, segments and types, each [B, T]."""
    random = np.random.default_rng(seed)
    length = min(LONGEST, config.maximum_positions)
    lengths = np.array([length, *random.integers(1, length + 1, ROWS - 1)])[:, None]
    return {
        "tokens": random.integers(0, config.vocab_size, (ROWS, length), dtype=np.int32),
        "segments": (np.arange(length) < lengths).astype(np.int32),
        "types": random.integers(0, config.type_vocab_size, (ROWS, length), dtype=np.int32),
    }


def our_outputs(imported: Imported, inputs: Outputs) -> Outputs:
    """Hidden states after every layer, pooled states and logits, in float32.

    Args:
      imported: the model.
      inputs: as of `random_inputs`.
    """
    config = dataclasses.replace(imported.config, dtype="float32", scan_layers=False)
    params, arrays = imported.params, [inputs[name] for name in ("tokens", "segments", "types")]
    bert = params["bert"]
    if "pooler" not in bert:  # the module asks for one; what it gives is not compared
        zeros = np.zeros((config.width + 1, config.width), np.float32)
        bert = {**bert, "pooler": {"dense": {"kernel": zeros[1:], "bias": zeros[0]}}}
    keep = lambda module, name: isinstance(module, Block) and name == "__call__"  # noqa: E731
    run: Any = jax.jit(functools.partial(Bert(config).apply, capture_intermediates=keep))
    (_, pooled), captured = run({"params": bert}, *arrays)
    layers = captured["intermediates"]["encoder"]
    found = {f"hidden states {i + 1}": layers[f"block_{i}"]["__call__"][0] for i in range(config.depth)}
    if "pooler" in params["bert"]:
        found["pooled"] = pooled
    if {"token_prediction", "next_sentence_classifier"} <= params.keys() and "pooler" in params["bert"]:
        everywhere = np.broadcast_to(np.arange(arrays[0].shape[1], dtype=np.int32), arrays[0].shape)
        heads = {name: params[name] for name in LOGITS.values()}
        logits: Any = jax.jit(BertForPretraining(config).apply)(
            {"params": {"bert": bert, **heads}}, *arrays, everywhere
        )
        found |= dict(zip(LOGITS, logits, strict=True))
    return {name: np.asarray(value) for name, value in jax.device_get(found).items()}


def import_peer() -> tuple[Any, Any]:
    """The modules torch and transformers.

    Raises:
      UserError: they are not installed.
    """
    try:
        import torch  # pyright: ignore[reportMissingImports]
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f"--verify runs transformers too, which is not installed ({error}). Type: pip install -e '.[parity]'"
        ) from error
    return torch, transformers


def peer_outputs(folder: pathlib.Path, architecture: str, inputs: Outputs) -> Outputs:
    """The same of the peer.

    Args:
      folder: that `transformers` opens.
      architecture: its class.
      inputs: as of `random_inputs`.
    Raises:
      UserError: the peer is not installed.
    """
    torch, transformers = import_peer()
    kind = "BertForPreTraining" if architecture == "BertForPreTraining" else "BertModel"
    plain = {} if kind == "BertForPreTraining" else {"add_pooling_layer": "bert/pooler" in ARCHITECTURES[architecture]}
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = getattr(transformers, kind).from_pretrained(folder, attn_implementation="eager", dtype="float32", **plain)
    tokens, mask, types = (torch.tensor(inputs[name].astype(np.int64)) for name in ("tokens", "segments", "types"))
    with torch.inference_mode():
        arguments = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": types}
        out = model.eval()(**arguments, output_hidden_states=True)
    found = {f"hidden states {i}": value for i, value in enumerate(out.hidden_states) if i}
    if kind == "BertForPreTraining":
        with torch.inference_mode():
            found["pooled"] = model.bert.pooler(out.hidden_states[-1])
        found |= {name: out[name] for name in LOGITS}
    elif plain["add_pooling_layer"]:
        found["pooled"] = out.pooler_output
    return {name: value.numpy() for name, value in found.items()}


def greatest_differences(ours: Outputs, theirs: Outputs, inputs: Outputs) -> dict[str, float]:
    """The greatest difference of every output; of states and logits of padding, which mean nothing, none.

    Raises:
      ValueError: the outputs have other names.
    """
    if ours.keys() != theirs.keys():
        raise ValueError(f"outputs differ: {sorted(ours.keys() ^ theirs.keys())}")
    real = inputs["segments"] > 0
    differences = {name: np.abs(ours[name] - theirs[name]) for name in ours}
    return {name: float((value[real] if value.ndim == 3 else value).max()) for name, value in differences.items()}
