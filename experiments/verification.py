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
from bert_jax.model import Bert, BertForLabels, BertForPretraining
from bert_jax.tasks import initial_params
from bert_jax.weights import ARCHITECTURES, Imported
from core_jax.errors import UserError
from core_jax.sharding import by_path, nested
from core_jax.transformer import Block

LARGEST = 1e-4  # difference of an output that still counts as the same
DIFFERENT = 1  # exit code where one differs by more
ROWS, LONGEST = 4, 64
LOGITS = {"prediction_logits": "token_prediction", "seq_relationship_logits": "next_sentence_classifier"}
PEER_LOGITS = {  # what the classes of `transformers` call them
    "BertForPreTraining": {name: name for name in LOGITS},
    "BertForMaskedLM": {"prediction_logits": "logits"},
    "BertForNextSentencePrediction": {"seq_relationship_logits": "logits"},
    "BertForSequenceClassification": {"logits": "logits"},
    "BertForMultipleChoice": {"logits": "logits"},
    "BertForTokenClassification": {"logits": "logits"},
    "BertForQuestionAnswering": {"start_logits": "start_logits", "end_logits": "end_logits"},
}
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
    bert, has_pooler = params["bert"], "pooler" in params["bert"]
    keep = lambda module, name: isinstance(module, Block) and name == "__call__"  # noqa: E731
    method = Bert.__call__ if has_pooler else Bert.encode
    run: Any = jax.jit(functools.partial(Bert(config).apply, method=method, capture_intermediates=keep))
    out, captured = run({"params": bert}, *arrays)
    layers = captured["intermediates"]["encoder"]
    found = {f"hidden states {i + 1}": layers[f"block_{i}"]["__call__"][0] for i in range(config.depth)}
    if has_pooler:
        found["pooled"] = out[1]
    found |= _pretraining_logits(config, params, arrays)
    found |= _label_logits(config, params, arrays)
    return {name: np.asarray(value) for name, value in jax.device_get(found).items()}


def _pretraining_logits(config: BertConfig, params: Any, arrays: list[np.ndarray]) -> dict[str, Any]:
    """Of the heads of pretraining that there are."""
    there = [name for name, head in LOGITS.items() if head in params]
    if not there:
        return {}
    model = BertForPretraining(config)
    shapes = by_path(jax.eval_shape(initial_params(model), jax.random.key(0)))
    absent = {path: np.zeros(leaf.shape, np.float32) for path, leaf in shapes.items()}
    everywhere = np.broadcast_to(np.arange(arrays[0].shape[1], dtype=np.int32), arrays[0].shape)
    whole = nested(absent | {path: value for path, value in by_path(params).items() if path in shapes})
    logits: Any = jax.jit(model.apply)({"params": whole}, *arrays, everywhere)
    return {name: value for name, value in zip(LOGITS, logits, strict=True) if name in there}


def _label_logits(config: BertConfig, params: Any, arrays: list[np.ndarray]) -> dict[str, Any]:
    """Of a fine-tuned model."""
    name = next((name for name in ("classifier", "span_classifier") if name in params), None)
    if name is None:
        return {}
    kept = {"bert": params["bert"], name: params[name]}
    head = "span" if name == "span_classifier" else "classification" if "pooler" in params["bert"] else "token"
    model = BertForLabels(config, head, len(params[name]["dense"]["bias"]))
    logits: Any = jax.jit(model.apply)({"params": kept}, *arrays)
    return {"start_logits": logits[..., 0], "end_logits": logits[..., 1]} if head == "span" else {"logits": logits}


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
    kind = architecture if architecture in PEER_LOGITS else "BertModel"
    plain = {"add_pooling_layer": "bert/pooler" in ARCHITECTURES[architecture]} if kind == "BertModel" else {}
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = getattr(transformers, kind).from_pretrained(folder, attn_implementation="eager", dtype="float32", **plain)
    names = {"tokens": "input_ids", "segments": "attention_mask", "types": "token_type_ids"}
    arguments = {theirs: torch.tensor(inputs[ours].astype(np.int64)) for ours, theirs in names.items()}
    if kind == "BertForMultipleChoice":  # of one choice
        arguments = {name: value[:, None] for name, value in arguments.items()}
    with torch.inference_mode():
        out = model.eval()(**arguments, output_hidden_states=True)
        found = {f"hidden states {i}": value for i, value in enumerate(out.hidden_states) if i}
        pooler = getattr(model, "bert", model).pooler
        if pooler is not None:
            found["pooled"] = pooler(out.hidden_states[-1])
    found |= {name: out[theirs] for name, theirs in PEER_LOGITS.get(kind, {}).items()}
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
    by_token = {name: value.shape[:2] == real.shape for name, value in differences.items()}
    return {name: float((value[real] if by_token[name] else value).max()) for name, value in differences.items()}
