"""The 5-gram baseline of language models: interpolated Kneser-Ney, counted from the training text.

The distribution of the next token after each context of four tokens is that of the counts less a discount, and what the
discounts leave goes to the distribution after the context of three, and so on down to all tokens alike. Below the
highest order, counts are of distinct tokens in front. Documents are counted on their own, with end pieces in front.

Axes: N predicted tokens, G distinct n-grams of an order, C distinct contexts of an order.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64, Int64

from bert_jax.corpus import Corpus
from bert_jax.packed_texts import framed

ORDER = 5
MOST_TOKENS = 10_000_000  # of the training text that are counted, the first ones; each needs some 200 bytes


@dataclasses.dataclass(frozen=True)
class _Level:
    """The contexts of one length and what follows them."""

    contexts: Int64[np.ndarray, " C"]  # sorted: number of the context without its oldest token x V + that token
    grams: Int64[np.ndarray, " G"]  # sorted: number of the context x V + next token
    discounted: Float64[np.ndarray, " G"]  # counts less the discount
    totals: Float64[np.ndarray, " C"]  # counts of each context
    left: Float64[np.ndarray, " C"]  # what the discounts leave


class KneserNey:
    """Probabilities of next tokens.

    Source: Kneser and Ney 1995, https://doi.org/10.1109/ICASSP.1995.479394, interpolated, with the discount
      n1 / (n1 + 2 n2) of each order, as in Chen and Goodman 1999, https://doi.org/10.1006/csla.1999.0128
    """

    def __init__(self, corpus: Corpus, end_id: int, vocab_size: int, most_tokens: int = MOST_TOKENS):
        """Counts.

        Args:
          corpus: to learn from, of which only the first `most_tokens` tokens are used.
          end_id: piece that stands between documents.
          vocab_size: V; every token has a probability.
          most_tokens: bounds the memory.
        """
        self._vocab_size, self._end_id = vocab_size, end_id
        histories, tokens = _windows(_documents(corpus, end_id, most_tokens), end_id)
        numbers, contexts = [np.zeros(len(tokens), np.int64)], [np.zeros(1, np.int64)]
        for age in range(ORDER - 1):
            found, number = np.unique(numbers[-1] * vocab_size + histories[age], return_inverse=True)
            contexts.append(found)
            numbers.append(number)
        self._levels: list[_Level] = []
        grams, counts = np.unique(numbers[-1] * vocab_size + tokens, return_counts=True)
        for length in reversed(range(ORDER)):
            self._levels.append(self._level(contexts[length], grams, counts))
            # One order below: how many distinct tokens stand in front of each gram.
            parents = contexts[length] // vocab_size
            grams, counts = np.unique(
                parents[grams // vocab_size] * vocab_size + grams % vocab_size, return_counts=True
            )
        self._levels.reverse()

    def _level(self, contexts, grams, counts) -> _Level:
        once, twice = (int(np.sum(counts == times)) for times in (1, 2))
        discount = once / (once + 2 * twice) if once else 0.5
        places = grams // self._vocab_size
        totals = np.bincount(places, counts, len(contexts))
        left = discount * np.bincount(places, minlength=len(contexts)) / totals
        return _Level(contexts, grams, counts - discount, totals, left)

    def log_probabilities(self, corpus: Corpus, document: int) -> Float64[np.ndarray, " N"]:
        """Of each token of a document and of its end, in nats."""
        histories, tokens = _windows([framed(corpus, document, self._end_id)], self._end_id)
        chances = np.full(len(tokens), 1 / self._vocab_size)
        contexts = np.zeros(len(tokens), np.int64)
        for length, level in enumerate(self._levels):
            if length:
                longer = contexts * self._vocab_size + histories[length - 1]
                contexts = _find(level.contexts, np.where(contexts < 0, -1, longer))
            known = contexts >= 0
            grams = _find(level.grams, np.where(known, contexts * self._vocab_size + tokens, -1))
            own = np.where(grams >= 0, level.discounted[grams], 0) / level.totals[contexts]
            chances = np.where(known, own + level.left[contexts] * chances, chances)
        return np.log(chances)

    def loss(self, corpus: Corpus) -> float:
        """The mean over all tokens of a split and the ends of its documents, in nats."""
        parts = [self.log_probabilities(corpus, document) for document in range(len(corpus))]
        return -float(np.concatenate(parts).mean())


def _documents(corpus: Corpus, end_id: int, most_tokens: int) -> Iterator[Int64[np.ndarray, " _"]]:
    counted = 0
    for document in range(len(corpus)):
        if counted >= most_tokens:
            return
        tokens = framed(corpus, document, end_id)
        counted += len(tokens) - 1
        yield tokens


def _windows(documents, end_id: int) -> tuple[list[Int64[np.ndarray, " N"]], Int64[np.ndarray, " N"]]:
    """The tokens before each token, the youngest first, and the tokens; in front of a document stand end pieces."""
    padded = [np.concatenate([np.full(ORDER - 2, end_id), tokens]).astype(np.int64) for tokens in documents]
    histories = [np.concatenate([text[ORDER - 2 - age : -1 - age] for text in padded]) for age in range(ORDER - 1)]
    return histories, np.concatenate([text[ORDER - 1 :] for text in padded])


def _find(table: Int64[np.ndarray, " _"], wanted: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
    """The place of each in a sorted table; -1 where it is not there."""
    places = np.minimum(np.searchsorted(table, wanted), len(table) - 1)
    return np.where(table[places] == wanted, places, -1)
