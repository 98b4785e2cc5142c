"""Pairs of text for next sentence prediction, each drawn on its own: nothing is written out beforehand.

Source: Devlin et al. 2018, https://arxiv.org/abs/1810.04805, appendix A.2.
"""

import array
import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int32, Int64

from bert_jax.corpus import Corpus

NEXT, RANDOM = 0, 1  # labels, as in the original
DRAWS = 7  # random numbers that a pair's lengths follow from
DOCUMENTS_AT_ONCE = 100_000  # whose lengths are Python numbers at one time


class SentencePair(NamedTuple):
    """Two texts and whether the second follows the first (0) or is from elsewhere (1)."""

    first: Int32[np.ndarray, " A"]
    second: Int32[np.ndarray, " B"]
    label: int


def chunk_documents(
    sentence_lengths: Int32[np.ndarray, " S"], document_offsets: Int64[np.ndarray, " documents_plus_one"], maximum: int
) -> Int64[np.ndarray, "N 3"]:
    """Cuts documents into runs of sentences, each of which gives one pair.

    A run ends at the first sentence with which it has at least `maximum` tokens and two sentences. What is left at the
    end of a document is a run, too, but a single sentence joins the run before it. A document of one sentence gives no
    run: it only serves as a random second text.

    Args:
      sentence_lengths: tokens of each sentence, one document after the other.
      document_offsets: index of each document's first sentence, and the number of sentences at the end.
      maximum: tokens that fill a pair.
    Returns:
      Rows (document, first sentence, end sentence), sentences counted within the document.
    """
    rows = array.array("q")
    for block in range(0, len(document_offsets) - 1, DOCUMENTS_AT_ONCE):
        offsets = document_offsets[block : block + DOCUMENTS_AT_ONCE + 1].tolist()
        lengths = sentence_lengths[offsets[0] : offsets[-1]].tolist()
        for document, (start, end) in enumerate(itertools.pairwise(offsets), start=block):
            if end - start >= 2:
                for first, last in _runs(lengths[start - offsets[0] : end - offsets[0]], maximum):
                    rows.extend((document, first, last))
    return np.array(rows, np.int64).reshape(-1, 3)


def _runs(lengths: list[int], maximum: int) -> list[tuple[int, int]]:
    runs, first, tokens = [], 0, 0
    for sentence, length in enumerate(lengths):
        tokens += length
        if tokens >= maximum and sentence > first:
            runs.append((first, sentence + 1))
            first, tokens = sentence + 1, 0
    if len(lengths) - first >= 2:
        runs.append((first, len(lengths)))
    elif first < len(lengths):
        runs[-1] = (runs[-1][0], len(lengths))
    return runs


def draw_pair(
    corpus: Corpus,
    chunk: Int64[np.ndarray, "3"],
    rng: np.random.Generator,
    *,
    maximum: int,
    short_probability: float = 0.1,
    anywhere: bool = False,
) -> SentencePair:
    """Draws a pair whose first text is the start of a chunk.

    Args:
      corpus: one split, of two documents or more.
      chunk: row of `chunk_documents`.
      rng: where all randomness comes from.
      maximum: tokens of both texts together, at most.
      short_probability: share of the pairs whose length is drawn from 2 .. maximum instead.
      anywhere: whether the first text is from anywhere in the chunk instead, as it is in short pairs, with `maximum`
        tokens to reach.
    Returns:
      The pair: with probability 1/2 the chunk goes on, else a random place in a random other document does.
    """
    document, first, end = chunk.tolist()
    is_short, length, run, split, coin, other, start = rng.random(DRAWS).tolist()
    tokens, ends = corpus.tokens(document), [0, *corpus.sentence_ends(document).tolist()]
    target = maximum
    if anywhere or is_short < short_probability:
        target = maximum if anywhere else 2 + int(length * (maximum - 1))
        first += int(run * (end - first - 1))  # leaves two sentences at least
        end = next((last for last in range(first + 2, end) if ends[last] - ends[first] >= target), end)
    middle = first + 1 + int(split * (end - first - 1))
    start_of_text = tokens[ends[first] : ends[middle]]
    if coin < 0.5:
        label, second = NEXT, tokens[ends[middle] : ends[end]]
    else:
        other = int(other * (len(corpus) - 1))
        label, second = RANDOM, _random_text(corpus, other + (other >= document), start, target - len(start_of_text))
    return SentencePair(*_truncate(start_of_text, second, maximum, rng), label)


def pair_lengths(
    sentence_starts: Int64[np.ndarray, " S_plus_one"],
    document_offsets: Int64[np.ndarray, " documents_plus_one"],
    chunks: Int64[np.ndarray, "N 3"],
    draws: Float64[np.ndarray, "N draws"],
    *,
    maximum: int,
    short_probability: float = 0.1,
) -> Int64[np.ndarray, " N"]:
    """Tokens of both texts together of the pairs that `draw_pair` draws, of many at once and without reading any text.

    Args:
      sentence_starts: tokens before each sentence of the split, and of all sentences at the end.
      document_offsets: index of each document's first sentence, and the number of sentences at the end.
      chunks: rows of `chunk_documents`.
      draws: the first DRAWS uniform numbers of each pair's generator.
      maximum, short_probability: as for `draw_pair`.
    Returns:
      The lengths, 2 .. maximum.
    """
    is_short, length, run, split, coin, other, start = draws.T
    document, first, end = chunks.T
    first, end = document_offsets[document] + first, document_offsets[document] + end  # counted within the split
    short = is_short < short_probability
    target = np.where(short, 2 + (length * (maximum - 1)).astype(np.int64), maximum)
    first = np.where(short, first + (run * (end - first - 1)).astype(np.int64), first)
    reached = np.searchsorted(sentence_starts, sentence_starts[first] + target)
    end = np.where(short, np.clip(reached, first + 2, end), end)
    middle = first + 1 + (split * (end - first - 1)).astype(np.int64)
    of_first = sentence_starts[middle] - sentence_starts[first]
    other = (other * (len(document_offsets) - 2)).astype(np.int64)
    other += other >= document
    offset, last = document_offsets[other], document_offsets[other + 1] - 1
    sentence = offset + (start * (last + 1 - offset)).astype(np.int64)
    reached = np.searchsorted(sentence_starts, sentence_starts[sentence] + target - of_first) - 1
    of_random = sentence_starts[np.clip(reached, sentence, last) + 1] - sentence_starts[sentence]
    of_second = np.where(coin < 0.5, sentence_starts[end] - sentence_starts[middle], of_random)
    return np.minimum(of_first + of_second, maximum)


def _random_text(corpus: Corpus, document: int, start: float, target: int) -> Int32[np.ndarray, " B"]:
    """Sentences from a place in a document (as a share of it) on, until there are `target` tokens."""
    tokens, ends = corpus.tokens(document), corpus.sentence_ends(document)
    sentence = int(start * len(ends))
    begin = int(ends[sentence - 1]) if sentence else 0
    last = max(sentence, min(int(np.searchsorted(ends, begin + target)), len(ends) - 1))
    return tokens[begin : ends[last]]


def _truncate(
    first: Int32[np.ndarray, " A"], second: Int32[np.ndarray, " B"], maximum: int, rng: np.random.Generator
) -> tuple[Int32[np.ndarray, " C"], Int32[np.ndarray, " D"]]:
    """Takes token after token from the longer text, each from the front or the back at random."""
    excess = len(first) + len(second) - maximum
    if excess <= 0:
        return first, second
    # Taking from the longer one ends where it is as long as the other; from there on both in turn, the second first.
    difference = len(first) - len(second)
    both = max(0, excess - abs(difference))
    longer = excess - both
    from_first = both // 2 + (longer if difference > 0 else 0)
    from_second = excess - from_first
    front_of_first, front_of_second = rng.binomial(from_first, 0.5), rng.binomial(from_second, 0.5)
    return (
        first[front_of_first : len(first) - from_first + front_of_first],
        second[front_of_second : len(second) - from_second + front_of_second],
    )
