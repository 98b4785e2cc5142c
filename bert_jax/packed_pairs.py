"""Sentence pairs packed into rows: each attends to itself alone, counts its own positions and keeps its own [CLS]."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from bert_jax.masking import number_of_predictions
from bert_jax.pretraining_data import SPECIAL_TOKENS, MaskedPair, PretrainingExamples, predictions_per_row
from core_jax.packing import PackedEpochs, largest_sum, lay_out

POSITIONS_PER_PAIR = 8  # a row has room for one pair in so many positions: shorter pairs than these hardly exist
EXTRA_SHARE = 8  # an extra pair has this part of a row at least: many pairs of a few words would teach little
RESERVE = 0.02  # of rows: the numbers that epochs of ten thousand pairs need differ by half of it
SHORTEST = SPECIAL_TOKENS + 2  # a token in each text


def room_of_rows(sequence_length: int, mask_probability: float) -> tuple[int, int]:
    """Room in a packed row for pairs, S, and for tokens to predict, P.

    P is as many as any S pairs of T tokens together can have, so that none is lost: a little more than unpacked, since
    the number of each pair is rounded, up to 1 where it is less.
    """
    pairs, alone = max(2, sequence_length // POSITIONS_PER_PAIR), predictions_per_row(sequence_length, mask_probability)

    def predictions_of(length: int) -> int:
        return number_of_predictions(length - SPECIAL_TOKENS, mask_probability, alone)

    return pairs, largest_sum(predictions_of, sequence_length, pairs, shortest=SHORTEST)


class PackedPairs:
    """Rows of pairs, each a pure function of (epoch, row); may be shared by threads and sent to other processes.

    An epoch holds each pair of `pairs` once. What room they leave in a row goes to one pair more, short enough to fit,
    as the original recipe has short pairs, too. Pairs of more than half a row would else leave much of it empty.

    Epochs have the same number of rows, with a reserve. Should the lengths of an epoch, which are drawn anew, need more
    rows still, the pairs of its emptiest rows are left out of that epoch.

    Attributes:
      pairs: what is packed.
      pairs_per_row, predictions: room for pairs, S, and for tokens to predict, P.
    """

    def __init__(self, pairs: PretrainingExamples, seed: int):
        """Plans the rows of epoch 0.

        Args:
          pairs: to pack.
          seed: of the plans, 0 or more.
        """
        length = pairs.sequence_length
        self.pairs = pairs
        self.pairs_per_row, self.predictions = room_of_rows(length, pairs.mask_probability)
        self._shortest_extra = max(SHORTEST, length // EXTRA_SHARE)
        self._epochs = PackedEpochs(
            pairs.lengths, capacity=length, maximum_per_row=self.pairs_per_row - 1, seed=seed, reserve=RESERVE
        )

    def __len__(self) -> int:
        return len(self._epochs)

    def members(self, epoch: int, row: int) -> list[int]:
        """Which of the pairs stand in a row, in their order; the extra pair is not among them."""
        return self._epochs.members(epoch, row).tolist()

    def row(self, epoch: int, row: int) -> list[MaskedPair]:
        """The pairs of a row, in their order; the extra pair, where there is one, is the last."""
        pairs = [self.pairs.pair(epoch, member) for member in self.members(epoch, row)]
        free = self.pairs.sequence_length - sum(len(pair.tokens) for pair in pairs)
        return [*pairs, self.pairs.extra_pair(epoch, row, free)] if free >= self._shortest_extra else pairs

    def measure(self, rows: Iterable[int]) -> tuple[float, float]:
        """Pairs a row, and the share of positions that is padding, in some rows of epoch 0."""
        lengths = [[len(pair.tokens) for pair in self.row(0, row)] for row in rows]
        filled = sum(map(sum, lengths)) / (len(lengths) * self.pairs.sequence_length)
        return sum(map(len, lengths)) / len(lengths), 1 - filled

    def example(self, epoch: int, index: int) -> dict[str, Any]:
        """Draws the row at a place.

        Args:
          epoch: which pass over the text; each pairs, hides and packs anew.
          index: which row, 0 .. len - 1.
        Returns:
          tokens, segments, types, positions: int32 [T]; segments are 1, 2, ... in the pairs and 0 at padding, positions
          restart at 0 in each pair, types are 1 in second texts. cls_positions, nsp_labels: int32 [S]. mlm_positions,
          mlm_labels: int32 [P]. weights: mlm, float32 [P], and nsp, float32 [S], are 1 where there is something.
        """
        pairs = self.row(epoch, index)
        length, predictions = self.pairs.sequence_length, self.predictions
        segments, positions, starts = lay_out([len(pair.tokens) for pair in pairs], length)
        mlm_positions = [pair.mlm_positions + start for pair, start in zip(pairs, starts, strict=True)]
        labels = np.array([pair.nsp_label for pair in pairs], np.int32)
        predicted = sum(len(places) for places in mlm_positions)
        return {
            "tokens": _join([pair.tokens for pair in pairs], length, self.pairs.pad_id),
            "segments": segments,
            "types": _join([pair.types for pair in pairs], length),
            "positions": positions,
            "cls_positions": _join([starts], self.pairs_per_row),
            "mlm_positions": _join(mlm_positions, predictions),
            "mlm_labels": _join([pair.mlm_labels for pair in pairs], predictions),
            "nsp_labels": _join([labels], self.pairs_per_row),
            "weights": {
                "mlm": (np.arange(predictions) < predicted).astype(np.float32),
                "nsp": (np.arange(self.pairs_per_row) < len(pairs)).astype(np.float32),
            },
        }


def _join(parts, length, value=0):
    """The parts one after the other, filled up with `value`."""
    joined = np.full(length, value, np.int32)
    parts = np.concatenate(parts)
    joined[: len(parts)] = parts
    return joined
