"""Fills masks:   python -m experiments.predict --init=WORKDIR "the capital of [MASK] is paris." """

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Float, Int32

from bert_jax.pretraining import Trained, open_trained
from bert_jax.tokenizer import Tokenizer
from core_jax.config import require
from core_jax.errors import UserError
from core_jax.sharding import parse_mesh
from experiments.console import parse_flags, print_table, run_command, say


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """Fills every [MASK] of each text with its most probable pieces."""

    texts: Annotated[tuple[str, ...], tyro.conf.Positional]  # each with one or more [MASK]
    init: str  # work folder of a run
    top: int = 5  # pieces shown for each mask

    def __post_init__(self):
        require(bool(self.texts), 'no text given; type one, such as "the capital of france is [MASK]."')
        require(self.top > 0, f"--top={self.top}: expected 1 or more")


def main(arguments: list[str]) -> int:
    """Predicts and prints; returns the exit code."""
    flags = parse_flags(Prediction, arguments, "Fills masks with a pretrained BERT.")
    mesh = parse_mesh("data:1", devices=jax.local_devices()[:1])
    trained = open_trained(flags.init, mesh, say)
    rows = [encode(text, trained.tokenizer, trained.config.model.maximum_positions) for text in flags.texts]
    for text, tokens in zip(flags.texts, rows, strict=True):
        show(text, tokens, fill_masks(trained, tokens), trained.tokenizer, flags.top)
    return 0


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


def fill_masks(trained: Trained, tokens: Int32[np.ndarray, " T"]) -> Float[np.ndarray, "M V"]:
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
    probabilities: Float[np.ndarray, "M V"],
    tokenizer: Tokenizer,
    top: int,
) -> None:
    """Prints the most probable pieces of each mask, and the text with the best put in."""
    for number, row in enumerate(probabilities):
        best = np.argsort(-row, kind="stable")[:top]
        name = "[MASK]" if len(probabilities) == 1 else f"[MASK] {number + 1}"
        print_table(text, (name, "probability"), [(tokenizer.piece(i), f"{row[i]:.4f}") for i in best.tolist()])
    filled = tokens.copy()
    filled[tokens == tokenizer.mask_id] = probabilities.argmax(axis=-1)
    say(tokenizer.decode(filled[1:-1].tolist()))


if __name__ == "__main__":
    run_command(main)
