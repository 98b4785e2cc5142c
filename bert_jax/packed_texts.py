"""Whole documents packed into rows, for prediction of the next token: none sees another.

A document of N tokens is N + 1 predictions: of each token and of the end, which are read from the end piece in front of
it and the tokens. What is longer than a row is cut into stretches, the first tokens of which see no further back.

Axes: N stretches, T positions of a row.
"""

from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from bert_jax.corpus import Corpus
from bert_jax.tokenizer import Tokenizer
from core_jax.errors import UserError
from core_jax.packing import PackedEpochs, lay_out

POSITIONS_PER_TEXT = 4  # a row has room for one stretch in so many positions


class PackedTexts:
    """Rows, each a pure function of (epoch, index); may be shared by threads and sent to other processes.

    An epoch holds each stretch of each document exactly once, in other company than the epoch before.

    Attributes:
      sequence_length: positions of a row, T.
      lengths: of the stretches.
    """

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, *, sequence_length: int, seed: int):
        """Cuts the documents into stretches and plans the rows of the first epoch.

        Args:
          corpus: one split, whose documents were not cut into sentences.
          tokenizer: the one that the corpus was made with.
          sequence_length: positions of a row, T.
          seed: of the plans, 0 or more.
        Raises:
          UserError: no documents, or another tokenizer's corpus.
        """
        if tokenizer.vocab_size != corpus.summary.vocab_size:
            raise UserError(
                f"the corpus was made with a vocabulary of {corpus.summary.vocab_size} pieces, the tokenizer has "
                f"{tokenizer.vocab_size}: delete the folder of the corpus, or give the tokenizer it was made with"
            )
        if not len(corpus):
            raise UserError(
                "this split of the text has no documents. Give more text, separate its documents by blank lines, or "
                "change --held_out"
            )
        self._corpus, self._end_id, self.sequence_length = corpus, tokenizer.end_id, sequence_length
        self._first_stretches, self.lengths = _stretches(document_lengths(corpus) + 1, sequence_length)
        self._epochs = PackedEpochs(
            self._lengths_of,
            capacity=sequence_length,
            maximum_per_row=max(sequence_length // POSITIONS_PER_TEXT, 1),
            seed=seed,
        )

    def __len__(self) -> int:
        return len(self._epochs)

    def _lengths_of(self, epoch: int) -> Int32[np.ndarray, " N"]:
        del epoch
        return self.lengths

    def example(self, epoch: int, index: int) -> dict[str, Any]:
        """The row at a place.

        Args:
          epoch: which pass over the text.
          index: which row, 0 .. len - 1.
        Returns:
          tokens, segments, positions, labels: int32 [T]; segments are 1, 2, ... in the stretches and 0 at padding,
          positions count anew in each, labels are the tokens that follow. weights: next, float32 [T], is 1 where one
          does.
        """
        stretches = self._epochs.members(epoch, index).tolist()
        segments, positions, starts = lay_out([int(self.lengths[number]) for number in stretches], self.sequence_length)
        row = {name: np.full(self.sequence_length, self._end_id, np.int32) for name in ("tokens", "labels")}
        for start, number in zip(starts.tolist(), stretches, strict=True):
            place = slice(start, start + int(self.lengths[number]))
            row["tokens"][place], row["labels"][place] = self._stretch(number)
        weights = {"next": (segments > 0).astype(np.float32)}
        return row | {"segments": segments, "positions": positions, "weights": weights}

    def _stretch(self, number: int) -> tuple[Int32[np.ndarray, " L"], Int32[np.ndarray, " L"]]:
        """The tokens of a stretch, and what follows each."""
        document = int(np.searchsorted(self._first_stretches, number, side="right")) - 1
        start = (number - int(self._first_stretches[document])) * self.sequence_length
        whole = framed(self._corpus, document, self._end_id)[start : start + int(self.lengths[number]) + 1]
        return whole[:-1], whole[1:]


def framed(corpus: Corpus, document: int, end_id: int) -> Int32[np.ndarray, " _"]:
    """The tokens of a document between two end pieces."""
    tokens = corpus.tokens(document)
    whole = np.full(len(tokens) + 2, end_id, np.int32)
    whole[1:-1] = tokens
    return whole


def document_lengths(corpus: Corpus) -> Int64[np.ndarray, " D"]:
    """The number of tokens of each document."""
    ends = np.concatenate([[0], np.cumsum(corpus.sentence_lengths, dtype=np.int64)])
    return np.diff(ends[corpus.document_offsets])


def _stretches(
    lengths: Int64[np.ndarray, " D"], longest: int
) -> tuple[Int64[np.ndarray, " D"], Int32[np.ndarray, " N"]]:
    """The first stretch of each document, and the length of every stretch."""
    counts = -(-lengths // longest)
    firsts = np.cumsum(counts) - counts
    sizes = np.full(int(counts.sum()), longest, np.int32)
    sizes[firsts + counts - 1] = lengths - (counts - 1) * longest
    return firsts, sizes
