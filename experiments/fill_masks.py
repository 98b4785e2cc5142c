"""What `experiments.predict` does with a pretrained model: fills masks."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int32

from bert_jax.pretraining import Trained, open_trained
from bert_jax.tokenizer import Tokenizer
from core_jax.errors import UserError
from core_jax.sharding import parse_mesh
from experiments.console import print_table, say


def fill(init: str, texts: Sequence[str], top: int) -> None:
    """Prints the most probable pieces for every [MASK] of each text.

    Args:
      init: work folder of a pretraining run.
      texts: each with one or more [MASK].
      top: pieces shown for each mask.
    """
    mesh = parse_mesh("data:1", devices=jax.local_devices()[:1])
    trained = open_trained(init, mesh, say)
    rows = [encode(text, trained.tokenizer, trained.config.model.maximum_positions) for text in texts]
    for text, tokens in zip(texts, rows, strict=True):
        show(text, tokens, probabilities(trained, tokens), trained.tokenizer, top)


def encode(text: str, tokenizer: Tokenizer, longest: int) -> Int32[np.ndarray, " T"]:
    """[CLS] text [SEP] as ids.

    Raises:
      UserError: the text holds no [MASK], or is longer than the position table.
    """
    ids = [tokenizer.cls_id, *tokenizer.encode([text], allow_special=True)[0], tokenizer.sep_id]
    if tokenizer.mask_id not in ids:
        raise UserError(f'{text!r} holds no [MASK]; write one where a word is to be found, e.g. "paris is in [MASK]."')
    if len(ids) > longest:
        raise UserError(f"a text of {len(ids)} tokens is longer than the model's {longest}: give a shorter one")
    return np.array(ids, np.int32)


def probabilities(trained: Trained, tokens: Int32[np.ndarray, " T"]) -> Float[np.ndarray, "M V"]:
    """The probability of every piece at every [MASK], in order."""
    # The next power of two: a handful of compiled programs serve texts of any length.
    length = min(max(16, 1 << (len(tokens) - 1).bit_length()), trained.config.model.maximum_positions)
    row = np.full((1, length), trained.tokenizer.pad_id, np.int32)
    row[0, : len(tokens)] = tokens
    segments = (np.arange(length) < len(tokens)).astype(np.int32)[None]
    logits = _logits(trained, row, segments)
    masks = np.flatnonzero(tokens == trained.tokenizer.mask_id)
    return np.asarray(jax.nn.softmax(logits[0, masks].astype(jnp.float32), axis=-1))


def _logits(trained, row, segments):
    everywhere = np.arange(row.shape[1], dtype=np.int32)[None]
    apply = jax.jit(lambda params, *inputs: trained.model.apply({"params": params}, *inputs)[0])
    return apply(trained.params, row, segments, np.zeros_like(row), everywhere)


def show(
    text: str,
    tokens: Int32[np.ndarray, " T"],
    shares: Float[np.ndarray, "M V"],
    tokenizer: Tokenizer,
    top: int,
) -> None:
    """Prints the most probable pieces of each mask, and the text with the best put in."""
    for number, row in enumerate(shares):
        best = np.argsort(-row, kind="stable")[:top]
        name = "[MASK]" if len(shares) == 1 else f"[MASK] {number + 1}"
        print_table(text, (name, "probability"), [(tokenizer.piece(i), f"{row[i]:.4f}") for i in best.tolist()])
    filled = tokens.copy()
    filled[tokens == tokenizer.mask_id] = shares.argmax(axis=-1)
    say(tokenizer.decode(filled[1:-1].tolist()))
