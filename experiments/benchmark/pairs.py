"""The pairs that both sides read, in files, and the batches that the peer makes of them. NumPy only.

Axes: N pairs, B batch, T positions.
"""

import itertools
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

IGNORED = -100  # label of a position that the peer does not predict
MEGABATCH = 50  # batches that are sorted by length together, as LengthGroupedSampler does in transformers


class Pair(NamedTuple):
    """One sentence pair as long as it is, L tokens of which M are to predict; as `MaskedPair`."""

    tokens: Int[np.ndarray, " L"]
    types: Int[np.ndarray, " L"]
    mlm_positions: Int[np.ndarray, " M"]
    mlm_labels: Int[np.ndarray, " M"]
    label: int  # next (0) or random (1); of a labelled text, which is a pair without predictions, its class


def useful_tokens(pairs: Sequence[Pair]) -> int:
    """Tokens without padding: what a rate counts, on either side."""
    return sum(len(pair.tokens) for pair in pairs)


def save_pairs(path: str | os.PathLike, batches: Sequence[Sequence[Pair]]) -> None:
    """Writes batches of pairs, one after the other."""
    pairs = [pair for batch in batches for pair in batch]
    np.savez(
        path,
        tokens=np.concatenate([pair.tokens for pair in pairs]),
        types=np.concatenate([pair.types for pair in pairs]),
        lengths=np.array([len(pair.tokens) for pair in pairs]),
        mlm_positions=np.concatenate([pair.mlm_positions for pair in pairs]),
        mlm_labels=np.concatenate([pair.mlm_labels for pair in pairs]),
        predictions=np.array([len(pair.mlm_positions) for pair in pairs]),
        nsp_labels=np.array([pair.label for pair in pairs]),
        batch_sizes=np.array([len(batch) for batch in batches]),
    )


def load_pairs(path: str | os.PathLike) -> list[list[Pair]]:
    """Reads what `save_pairs` wrote."""
    with np.load(path) as stored:
        arrays = dict(stored)
    token_ends, prediction_ends = (arrays[name].cumsum()[:-1] for name in ("lengths", "predictions"))
    parts = [np.split(arrays[name], token_ends) for name in ("tokens", "types")]
    parts += [np.split(arrays[name], prediction_ends) for name in ("mlm_positions", "mlm_labels")]
    pairs = iter([Pair(*values) for values in zip(*parts, arrays["nsp_labels"].tolist(), strict=True)])
    return [[next(pairs) for _ in range(size)] for size in arrays["batch_sizes"]]


def group_by_length(batches: Sequence[Sequence[Pair]], megabatch: int = MEGABATCH) -> list[list[Pair]]:
    """The same pairs in as many batches, each of pairs of similar lengths: the peer's `group_by_length`.

    Args:
      batches: at random.
      megabatch: so many of them are sorted together, the longest first.
    Returns:
      Batches of the mean size, the last of a megabatch up to one larger or smaller for each other.
    """
    grouped = []
    for start in range(0, len(batches), megabatch):
        part = batches[start : start + megabatch]
        pairs = sorted((pair for batch in part for pair in batch), key=lambda pair: -len(pair.tokens))
        bounds = np.linspace(0, len(pairs), len(part) + 1).round().astype(int).tolist()
        grouped += [pairs[low:high] for low, high in itertools.pairwise(bounds)]
    return grouped


def pad_to_longest(pairs: Sequence[Pair], pad_id: int) -> dict[str, Int[np.ndarray, "..."]]:
    """The peer's arguments for a batch, padded to its longest pair as `DataCollatorWithPadding` does.

    Args:
      pairs: of one batch.
      pad_id: token that fills up.
    Returns:
      `input_ids`, `attention_mask`, `token_type_ids`, `labels` [B, T] and `next_sentence_label` [B], int64.
    """
    shape = len(pairs), max(len(pair.tokens) for pair in pairs)
    inputs = {
        "input_ids": np.full(shape, pad_id, np.int64),
        "attention_mask": np.zeros(shape, np.int64),
        "token_type_ids": np.zeros(shape, np.int64),
        "labels": np.full(shape, IGNORED, np.int64),
    }
    for row, pair in enumerate(pairs):
        length = len(pair.tokens)
        inputs["input_ids"][row, :length] = pair.tokens
        inputs["attention_mask"][row, :length] = 1
        inputs["token_type_ids"][row, :length] = pair.types
        inputs["labels"][row, pair.mlm_positions] = pair.mlm_labels
    return inputs | {"next_sentence_label": np.array([pair.label for pair in pairs], np.int64)}
