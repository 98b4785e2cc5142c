"""Which documents are nearly the same, by MinHash: from any number of documents, each summed up in 224 bytes.

Documents are compared as sets of runs of five pieces. Two of Jaccard similarity s agree in each value of their
signature with probability s, so that one of 14 bands of 8 values agrees with probability 1 - (1 - s^8)^14: 92 % at 0.8,
99.95 % at 0.9, 5 % at 0.5. What agrees in a band is then compared in all values.

Source: Broder 1997, https://doi.org/10.1109/SEQUEN.1997.666900; number and size of the bands as in Penedo et al. 2024,
https://arxiv.org/abs/2406.17557, section 3.4. Signatures come from the library `rensa`. Its index of bands, as that of
`datasketch`, lives in memory, and here memory must not grow with the corpus; so bands are sorted on disk.

Axes: D documents, T tokens.
"""

import pathlib
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Bool, Float, Int32, Int64, UInt8, UInt64
from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]

from core_jax.external_sort import sorted_buckets

BANDS, ROWS_PER_BAND = 14, 8
PERMUTATIONS = BANDS * ROWS_PER_BAND
RUN = 5  # tokens that are compared as one
THRESHOLD = 0.8  # estimated Jaccard similarity from which on documents count as nearly the same
MULTIPLIERS = np.random.default_rng(1).integers(2**63, size=(max(RUN, ROWS_PER_BAND),), dtype=np.uint64) * 2 + 1
KEYED_POSITION = np.dtype([("key", np.uint64), ("position", np.int64)])


def sign(
    tokens: Int32[np.ndarray, " T"], lengths: Int64[np.ndarray, " D"]
) -> tuple[UInt64[np.ndarray, "D bands"], UInt8[np.ndarray, "D permutations"]]:
    """Sums up documents.

    Args:
      tokens: of all documents, one after the other.
      lengths: tokens of each document, 1 or more.
    Returns:
      A key for each band, equal where the band's values are; and the last 8 bits of each value, which differ in all but
      1 of 256 cases where values differ (Li and König 2010, https://arxiv.org/abs/0910.3349).
    """
    runs, offsets = _runs(tokens, lengths)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(runs, offsets, PERMUTATIONS, 0)
    values = np.array(matrix.to_rows(), np.uint64).reshape(-1, PERMUTATIONS)
    bands = values.reshape(-1, BANDS, ROWS_PER_BAND) * MULTIPLIERS[:ROWS_PER_BAND]
    keys = _scramble(bands.sum(axis=2, dtype=np.uint64) + np.arange(BANDS, dtype=np.uint64))
    return keys, values.astype(np.uint8)


def _runs(tokens, lengths):
    """A number for each run of tokens within a document, and where each document's runs start, with the end."""
    gap = RUN - 1  # zeros between documents: what is shorter than a run is filled up with them
    places = np.arange(len(tokens)) + gap * np.repeat(np.arange(len(lengths)), lengths)
    spaced = np.zeros(len(tokens) + gap * len(lengths), np.uint64)
    spaced[places] = tokens.astype(np.uint64) + 1
    starts = np.concatenate([[0], np.cumsum(lengths)])
    within = np.arange(len(tokens)) - np.repeat(starts[:-1], lengths)
    first = places[within <= np.repeat(np.maximum(lengths - RUN, 0), lengths)]
    runs = np.zeros(len(first), np.uint64)
    for offset in range(RUN):
        runs += spaced[first + offset] * MULTIPLIERS[offset]
    offsets = np.concatenate([[0], np.cumsum(np.maximum(lengths - gap, 1))])
    return _scramble(runs), offsets.astype(np.uint64)


def _scramble(numbers: UInt64[np.ndarray, "*n"]) -> UInt64[np.ndarray, "*n"]:
    """Spreads 64-bit numbers over their whole range: a one-to-one map (the finalizer of SplitMix64)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def similarity(
    sketches: UInt8[np.ndarray, "D permutations"], others: UInt8[np.ndarray, "D permutations"]
) -> Float[np.ndarray, " D"]:
    """Estimates the Jaccard similarity of documents, one by one, with a standard error of 0.05 at most.

    Args:
      sketches, others: second result of `sign`.
    """
    chance = 1 / 256  # of equal bits where values differ
    return ((sketches == others).mean(axis=1) - chance) / (1 - chance)


def near_duplicates(
    read_bands: Callable[[], Iterable[tuple[Int64[np.ndarray, " D"], UInt64[np.ndarray, "D bands"]]]],
    sketches: UInt8[np.ndarray, "D permutations"],
    folder: pathlib.Path,
) -> Bool[np.ndarray, " D"]:
    """Marks documents that are nearly the same as one before.

    Args:
      read_bands: gives positions, ascending, and band keys of the documents to look at, part by part.
      sketches: of all documents, by position; may be a map of a file.
      folder: room for what does not fit into memory.
    Returns:
      Whether a document has an estimated similarity of THRESHOLD or more with the first of those that share a band.
    """
    found = np.zeros(len(sketches), bool)

    def keyed():
        for positions, keys in read_bands():
            records = np.empty(keys.shape, KEYED_POSITION)
            records["key"], records["position"] = keys, positions[:, None]
            yield records.ravel()

    for records in sorted_buckets(keyed, len(sketches) * BANDS, folder):
        starts = np.flatnonzero(np.diff(records["key"], prepend=~records["key"][:1]))
        first = np.repeat(records["position"][starts], np.diff(starts, append=len(records)))
        pairs = np.flatnonzero(records["position"] != first)
        pairs = pairs[~found[records["position"][pairs]]]
        for part in np.array_split(pairs, -(-len(pairs) // 10_000) or 1):
            later, earlier = records["position"][part], first[part]
            found[later[similarity(sketches[later], sketches[earlier]) >= THRESHOLD]] = True
    return found
