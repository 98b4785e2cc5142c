"""What a corpus is like, in figures and a picture: sizes, duplicates, unknown pieces, lengths, padding, speed."""

import dataclasses
import os
import time
from collections.abc import Iterator

import numpy as np
from etils import epath
from jaxtyping import Int, Int64

from bert_jax.corpus import Corpus, open_corpus
from bert_jax.packed_pairs import PackedPairs
from bert_jax.pretraining_data import PretrainingExamples
from bert_jax.tokenizer import Tokenizer, WordPiece
from core_jax.data import Order
from core_jax.errors import UserError

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
LONGEST = 1 << 20  # tokens; what is longer counts as this long
AT_ONCE = 1 << 20  # sentences whose lengths are in memory
MEASURED_SENTENCES = 2_000_000  # the first ones, of which padding and speed are measured
MEASURED_ROWS = 200
SEQUENCE_LENGTHS = (128, 512)


@dataclasses.dataclass(frozen=True)
class CorpusFigures:
    """A corpus in figures. Shares are 0 to 1; lengths, in tokens, are given by their quantile."""

    documents: int
    held_out_documents: int
    sentences: int
    tokens: int
    exact_duplicates: int  # left out
    near_duplicates: int  # still there
    empty_documents: int
    repeated_sentence_share: float  # of the sentences: their text had come before
    unknown_share: float  # of the tokens: the vocabulary has no piece
    pieces_per_word: float | None  # of the training text; None where pieces know nothing of words
    vocabulary: int  # pieces that could occur in a text
    used_vocabulary: int  # pieces that do occur, in the training text
    single_sentence_share: float  # of the training documents: no pair can be made of them
    sentence_lengths: dict[str, int]
    document_lengths: dict[str, int]


def corpus_figures(directory: str | os.PathLike, tokenizer: Tokenizer) -> CorpusFigures:
    """Counts; reads the index only, part by part, so that it takes little time and memory.

    Args:
      directory: of the corpus.
      tokenizer: that it was made with.
    """
    train, held_out = open_corpus(directory, "train"), open_corpus(directory, "held_out")
    both, summary = (train, held_out), train.summary
    sentences = summary.train.sentences + summary.held_out.sentences
    tokens = summary.train.tokens + summary.held_out.tokens
    single = sum(int((np.diff(offsets) == 1).sum()) for offsets in _parts(train.document_offsets))
    words = train.unigram_counts[~tokenizer.continues_word].sum()
    return CorpusFigures(
        documents=len(train) + len(held_out),
        held_out_documents=len(held_out),
        sentences=sentences,
        tokens=tokens,
        exact_duplicates=summary.duplicates,
        near_duplicates=summary.near_duplicates,
        empty_documents=summary.empty_documents,
        repeated_sentence_share=summary.repeated_sentences / sentences,
        unknown_share=(summary.train.unknown_pieces + summary.held_out.unknown_pieces) / tokens,
        # SentencePiece has words where a text has spaces, which some languages do without.
        pieces_per_word=summary.train.tokens / max(1, int(words)) if isinstance(tokenizer, WordPiece) else None,
        vocabulary=len(tokenizer.ordinary_ids),
        used_vocabulary=int((train.unigram_counts[tokenizer.ordinary_ids] > 0).sum()),
        single_sentence_share=single / max(1, len(train)),
        sentence_lengths=_quantiles(_sentence_histogram(both)),
        document_lengths=_quantiles(document_histogram(directory)),
    )


def document_histogram(directory: str | os.PathLike) -> Int64[np.ndarray, " lengths"]:
    """How many documents there are of each number of tokens; what is longer than LONGEST counts as LONGEST.

    Args:
      directory: of the corpus.
    """
    histogram = np.zeros(LONGEST + 1, np.int64)
    for corpus in (open_corpus(directory, "train"), open_corpus(directory, "held_out")):
        for offsets in _parts(corpus.document_offsets):
            lengths = corpus.sentence_lengths[offsets[0] : offsets[-1]]
            histogram += _histogram(np.add.reduceat(lengths, offsets[:-1] - offsets[0], dtype=np.int64))
    return histogram


def _parts(offsets: Int64[np.ndarray, " D_plus_one"]) -> Iterator[Int64[np.ndarray, " _"]]:
    """The offsets of some documents at a time, each time with the end of the last."""
    for start in range(0, len(offsets) - 1, AT_ONCE // 16):
        yield offsets[start : start + AT_ONCE // 16 + 1]


def _sentence_histogram(corpora: tuple[Corpus, Corpus]) -> Int64[np.ndarray, " lengths"]:
    histogram = np.zeros(LONGEST + 1, np.int64)
    for lengths in (corpus.sentence_lengths for corpus in corpora):
        for start in range(0, len(lengths), AT_ONCE):
            histogram += _histogram(lengths[start : start + AT_ONCE])
    return histogram


def _histogram(lengths: Int[np.ndarray, " _"]) -> Int64[np.ndarray, " lengths"]:
    return np.bincount(np.minimum(lengths, LONGEST), minlength=LONGEST + 1)


def _quantiles(histogram: Int64[np.ndarray, " lengths"]) -> dict[str, int]:
    cumulated = histogram.cumsum()
    return {f"{q:g}": int(np.searchsorted(cumulated, max(1, np.ceil(q * cumulated[-1])))) for q in QUANTILES}


def measure_padding(directory: str | os.PathLike, tokenizer: Tokenizer) -> dict[str, dict[str, float]]:
    """The share of positions that is padding in rows of usual lengths, unpacked and packed; empty without pairs.

    Args:
      directory: of the corpus, of which only the first sentences are looked at.
      tokenizer: that it was made with.
    """
    shares = {}
    for length in SEQUENCE_LENGTHS:
        examples = _examples(directory, tokenizer, length)
        if examples is None:
            return {}
        packed = PackedPairs(examples, seed=0)
        rows = range(0, len(packed), -(-len(packed) // MEASURED_ROWS))
        unpacked = 1 - float(examples.lengths(0).mean()) / length
        shares[str(length)] = {"unpacked": unpacked, "packed": packed.measure(rows)[1]}
    return shares


def measure_reading(directory: str | os.PathLike, tokenizer: Tokenizer, seconds: float) -> float | None:
    """Tokens a second that one process draws, hides and fills up, in random order, 128 a row; None without pairs.

    Args:
      directory: of the corpus, of which only the first sentences are read.
      tokenizer: that it was made with.
      seconds: to spend.
    """
    examples = _examples(directory, tokenizer, SEQUENCE_LENGTHS[0])
    if examples is None:
        return None
    order, position, tokens, start = Order(len(examples), seed=0), 0, 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds or not position:
        tokens += int(examples.example(*order(position))["segments"].sum())
        position += 1
    return tokens / spent


def _examples(directory: str | os.PathLike, tokenizer: Tokenizer, length: int) -> PretrainingExamples | None:
    offsets = open_corpus(directory, "train").document_offsets
    documents = int(np.searchsorted(offsets, MEASURED_SENTENCES, side="right")) - 1
    corpus = open_corpus(directory, "train", documents=max(documents, 1))
    try:
        return PretrainingExamples(corpus, tokenizer, sequence_length=length, seed=0)
    except UserError:  # no document has two sentences, or there is only one
        return None


def draw_document_lengths(histogram: Int64[np.ndarray, " lengths"], path: epath.PathLike) -> None:
    """Draws how long the documents are, and which share of the tokens is in documents of each length.

    Args:
      histogram: of `document_histogram`.
      path: of the picture, .png.
    """
    from matplotlib.figure import Figure  # half a second that only this needs

    lengths = np.flatnonzero(histogram)
    counts = histogram[lengths]
    edges = np.geomspace(lengths[0], lengths[-1] + 1, 61).tolist()
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.hist(lengths, edges, weights=counts / counts.sum(), color="tab:blue", alpha=0.6, label="of the documents")
    axes.hist(
        lengths,
        edges,
        weights=counts * lengths / (counts * lengths).sum(),
        color="tab:orange",
        histtype="step",
        linewidth=2,
        label="of the tokens, which stand in such documents",
    )
    for length in SEQUENCE_LENGTHS:
        axes.axvline(length, color="gray", linestyle="--", linewidth=1)
        axes.annotate(f" {length}", (length, 1), xycoords=("data", "axes fraction"), va="top", color="gray")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:.1%}")
    axes.set_xlabel("tokens in a document")
    axes.set_ylabel("share")
    axes.set_title(f"{counts.sum():,} documents, median {_quantiles(histogram)['0.5']:,} tokens", loc="left")
    axes.legend(frameon=False)
    with epath.Path(path).open("wb") as file:
        figure.savefig(file, format="png", dpi=120)
