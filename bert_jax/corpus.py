"""The tokenised text on disk: documents at random access, in a training and a held-out split."""

import bisect
import dataclasses
import json
import os
import pathlib
import resource
from typing import Any, Literal

import numpy as np
from jaxtyping import Int32, Int64

from bert_jax.corpus_shards import DOCUMENTS, open_shard, shard_folder
from core_jax.errors import UserError

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, Split] = ("train", "held_out")
SPARE_FILES = 200  # that the process may open beside those of a corpus


@dataclasses.dataclass(frozen=True)
class SplitSummary:
    """Sizes of one split."""

    documents: int
    sentences: int
    tokens: int
    unknown_pieces: int  # tokens for which the vocabulary had no piece


@dataclasses.dataclass(frozen=True)
class CorpusSummary:
    """What went into a corpus and what was dropped on the way."""

    train: SplitSummary
    held_out: SplitSummary
    duplicates: int  # documents whose text had come before, apart from spaces; left out
    near_duplicates: int  # documents that are nearly the same as one before; they stay
    repeated_sentences: int  # sentences whose text had come before, in the documents that stay
    empty_documents: int  # documents without a token
    vocab_size: int


class Corpus:
    """One split of a corpus, read lazily; may be shared by threads and sent to other processes.

    Attributes:
      summary: sizes of the whole corpus.
      sentence_lengths: tokens of each sentence, one document after the other.
      document_offsets: index of each document's first sentence, and the number of sentences at the end.
      unigram_counts: how often each id occurs in the training split.
    """

    def __init__(self, directory: str | os.PathLike, split: Split, documents: int | None = None):
        self._directory, self._split, self._limit = pathlib.Path(directory), split, documents
        try:
            stored = json.loads((self._directory / "corpus.json").read_text(encoding="utf-8"))
            self._dtype = np.dtype(stored.pop("dtype"))
            sizes = {name: SplitSummary(**stored.pop(name)) for name in SPLITS}
            self.summary = CorpusSummary(**sizes, **stored)
            self.unigram_counts: Int64[np.ndarray, " V"] = self._load("unigram_counts.npy")
            offsets, lengths = self._load(f"{split}.document_offsets.npy"), self._load(f"{split}.sentence_lengths.npy")
            self._records = self._load(f"{split}.records.npy")
            self._shard_starts = self._load(f"{split}.shard_starts.npy").tolist()
            self._check(len(offsets) - 1, len(lengths))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(error) from error
        self.document_offsets: Int64[np.ndarray, " documents_plus_one"] = offsets[
            : None if documents is None else documents + 1
        ]
        self.sentence_lengths: Int32[np.ndarray, " S"] = lengths[: self.document_offsets[-1]]
        self._readers: dict[int, Any] = {}
        _allow_open_files(len(self._shard_starts))

    def __len__(self) -> int:
        return len(self.document_offsets) - 1

    def __getitem__(self, document: int) -> list[Int32[np.ndarray, " _"]]:
        return np.split(self.tokens(document), self.sentence_ends(document)[:-1])

    def tokens(self, document: int) -> Int32[np.ndarray, " T"]:
        """All tokens of a document, its sentences joined.

        Args:
          document: its index in this split.
        Raises:
          UserError: the file is damaged.
        """
        if not 0 <= document < len(self):
            raise IndexError(f"document {document} of {len(self)}")
        shard = bisect.bisect_right(self._shard_starts, document) - 1
        try:
            reader = self._readers.get(shard)
            if reader is None:  # two threads may open a file twice, and one of the readers is used
                reader = self._readers[shard] = open_shard(shard_folder(self._directory, shard))
            [record] = reader.read([int(self._records[document])])
        except (RuntimeError, ValueError, IndexError) as error:
            raise self._damaged(error) from error
        return np.frombuffer(record, self._dtype).astype(np.int32)

    def sentence_ends(self, document: int) -> Int64[np.ndarray, " _"]:
        """Where each sentence of a document ends in its `tokens`.

        Args:
          document: its index in this split.
        """
        first, end = self.document_offsets[document], self.document_offsets[document + 1]
        return self.sentence_lengths[first:end].cumsum(dtype=np.int64)

    def _load(self, name: str) -> np.ndarray:
        # A plain view of the mapped file: slices of np.memmap itself are slow.
        return np.asarray(np.load(self._directory / name, mmap_mode="r"))

    def _check(self, documents: int, sentences: int) -> None:
        """Raises ValueError where something is missing; that no byte has changed shows when a document is read."""
        expected = getattr(self.summary, self._split)
        if not documents == expected.documents == len(self._records) == self._shard_starts[-1]:
            raise ValueError(f"{documents} documents are there, expected {expected.documents}")
        if sentences != expected.sentences:
            raise ValueError(f"{sentences} sentences are there, expected {expected.sentences}")
        for shard, size in enumerate(self._load("shard_bytes.npy").tolist()):
            file = shard_folder(self._directory, shard) / DOCUMENTS
            if (found := file.stat().st_size) != size:
                raise ValueError(f"{file} has {found} bytes, expected {size}")

    def _damaged(self, error: Exception) -> UserError:
        return UserError(
            f"the tokenised text in {self._directory} is incomplete or damaged ({self._split}: {error}). "
            f"Delete that folder, and the next run makes it anew: rm -r {self._directory}"
        )

    def __reduce__(self):
        return Corpus, (self._directory, self._split, self._limit)


def _allow_open_files(count: int) -> None:
    """Lets the process hold all files of a corpus open, as far as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise UserError(
                f"the corpus has {count} parts, but a process may open {hard} files here. Ask for more, by typing "
                f"before: ulimit -Hn {2 * needed}"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def open_corpus(directory: str | os.PathLike, split: Split, documents: int | None = None) -> Corpus:
    """Opens one split of a corpus.

    Args:
      directory: what `build_corpus` wrote.
      split: "train" or "held_out".
      documents: only so many, the first; None: all.
    Returns:
      The documents, read from disk when asked for.
    Raises:
      UserError: the folder is missing, incomplete or damaged.
    """
    return Corpus(directory, split, documents)


def corpus_exists(directory: str | os.PathLike) -> bool:
    """Whether `build_corpus` has finished in this folder.

    Args:
      directory: the folder in question.
    """
    return pathlib.Path(directory, "corpus.json").exists()
