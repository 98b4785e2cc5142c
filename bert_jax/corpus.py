"""The tokenised text on disk: documents at random access, in a training and a held-out split."""

import array
import collections
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from jaxtyping import Int32, Int64
from sentencex import segment  # pyright: ignore[reportAttributeAccessIssue]

from bert_jax.tokenizer import Tokenizer
from core_jax.errors import UserError

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, Split] = ("train", "held_out")
SENTENCES_AT_ONCE = 4096  # tokenised together: enough for all cores, little memory


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
    duplicates: int  # documents whose text had come before, apart from spaces
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

    def __init__(self, directory: str | os.PathLike, split: Split):
        self._directory, self._split = pathlib.Path(directory), split
        self._lock = threading.Lock()
        try:
            stored = json.loads((self._directory / "corpus.json").read_text(encoding="utf-8"))
            self._dtype = np.dtype(stored.pop("dtype"))
            sizes = {name: SplitSummary(**stored.pop(name)) for name in SPLITS}
            self.summary = CorpusSummary(**sizes, **stored)
            self.sentence_lengths: Int32[np.ndarray, " S"] = self._load(f"{split}.sentence_lengths.npy")
            self.document_offsets: Int64[np.ndarray, " documents_plus_one"] = self._load(
                f"{split}.document_offsets.npy"
            )
            self.unigram_counts: Int64[np.ndarray, " V"] = self._load("unigram_counts.npy")
            self._reader = self._open()
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise self._damaged(error) from error

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
        try:
            [record] = self._reader.read([document])
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

    def _open(self) -> Any:
        # Documents are read one here, one there: reading ahead would be in vain.
        reader = ArrayRecordReader(str(self._directory / f"{self._split}.array_record"), "readahead_buffer_size:0")
        expected = getattr(self.summary, self._split).documents
        if not reader.num_records() == len(self) == expected:
            raise ValueError(f"{reader.num_records()} documents are there, expected {expected}")
        return reader

    def _damaged(self, error: Exception) -> UserError:
        return UserError(
            f"the tokenised text in {self._directory} is incomplete or damaged ({self._split}: {error}). "
            f"Delete that folder, and the next run makes it anew: rm -r {self._directory}"
        )

    def __reduce__(self):
        return Corpus, (self._directory, self._split)


def open_corpus(directory: str | os.PathLike, split: Split) -> Corpus:
    """Opens one split of a corpus.

    Args:
      directory: what `build_corpus` wrote.
      split: "train" or "held_out".
    Returns:
      The documents, read from disk when asked for.
    Raises:
      UserError: the folder is missing, incomplete or damaged.
    """
    return Corpus(directory, split)


def corpus_exists(directory: str | os.PathLike) -> bool:
    """Whether `build_corpus` has finished in this folder.

    Args:
      directory: the folder in question.
    """
    return pathlib.Path(directory, "corpus.json").exists()


def build_corpus(
    documents: Iterator[str],
    tokenizer: Tokenizer,
    directory: str | os.PathLike,
    *,
    held_out: float,
    language: str = "en",
    report: Callable[[int], None] | None = None,
) -> CorpusSummary:
    """Splits documents into sentences, tokenises them and writes both splits; streams, so memory stays small.

    Which split a document is in follows from its text alone: the same text never is in both, whatever the order.
    Exact duplicates are dropped, apart from the first.

    Args:
      documents: the texts; a line end also ends a sentence.
      tokenizer: cuts sentences into pieces.
      directory: folder to make; it appears when all is written.
      held_out: share of the documents in the held-out split, 0 to 1.
      language: ISO 639-1 code, for the rules of abbreviations.
      report: called now and then with the number of documents read so far.
    Returns:
      What was written.
    Raises:
      UserError: no document has any tokens, or `held_out` is not a share.
    """
    if not 0 <= held_out < 1:
        raise UserError(f"--held_out={held_out}: expected a share of the documents, at least 0 and below 1")
    target = pathlib.Path(directory)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    temporary.mkdir(parents=True)
    try:
        writer = _CorpusWriter(temporary, tokenizer)
        read = 0
        for batch in _batches(_sentences(documents, held_out, language, writer.dropped)):
            writer.write(batch)
            read += len(batch)
            if report:
                report(read + writer.dropped["duplicates"])
        summary = writer.close()
        try:
            temporary.rename(target)
        except OSError:  # another process has made the same corpus meanwhile
            if not corpus_exists(target):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return summary


def _sentences(
    documents: Iterable[str], held_out: float, language: str, dropped: collections.Counter[str]
) -> Iterator[tuple[Split, list[str]]]:
    """Each new document's split and sentences."""
    seen: set[int] = set()
    for document in documents:
        identity, place = _hashes(document)
        if identity in seen:
            dropped["duplicates"] += 1
            continue
        seen.add(identity)
        lines = document.splitlines()
        sentences = [sentence for line in lines if line.strip() for sentence in segment(language, line)]
        yield ("held_out" if place < held_out * 2**64 else "train"), sentences


def is_held_out(document: str, held_out: float) -> bool:
    """Whether a document is in the held-out split: decided by its text alone, apart from spaces.

    Args:
      document: its text.
      held_out: share of the documents in that split, 0 to 1.
    """
    return _hashes(document)[1] < held_out * 2**64


def _hashes(document: str) -> tuple[int, int]:
    """Two independent 64-bit numbers that follow from the text: who it is, and where it goes."""
    digest = hashlib.blake2b(" ".join(document.split()).encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8]), int.from_bytes(digest[8:])


def _batches(documents: Iterator[tuple[Split, list[str]]]) -> Iterator[list[tuple[Split, list[str]]]]:
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += 1 + len(document[1])
        if size >= SENTENCES_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _CorpusWriter:
    """Tokenises batches of documents and appends them to the files of their splits."""

    def __init__(self, folder: pathlib.Path, tokenizer: Tokenizer):
        self.dropped: collections.Counter[str] = collections.Counter()
        self._folder, self._tokenizer = folder, tokenizer
        self._dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.int32)
        self._counts = {split: np.zeros(tokenizer.vocab_size, np.int64) for split in SPLITS}
        self._lengths = {split: array.array("i") for split in SPLITS}
        self._offsets = {split: array.array("q", [0]) for split in SPLITS}
        self._writers = {
            split: ArrayRecordWriter(str(folder / f"{split}.array_record"), "group_size:1,uncompressed")
            for split in SPLITS
        }

    def write(self, batch: list[tuple[Split, list[str]]]) -> None:
        """Appends documents, given as (split, sentences)."""
        encoded = iter(self._tokenizer.encode([sentence for _, sentences in batch for sentence in sentences]))
        for split, sentences in batch:
            kept = [ids for ids in itertools.islice(encoded, len(sentences)) if ids]
            if not kept:
                self.dropped["empty_documents"] += 1
                continue
            tokens = np.fromiter(itertools.chain.from_iterable(kept), self._dtype)
            self._writers[split].write(tokens.tobytes())
            self._lengths[split].extend(map(len, kept))
            self._offsets[split].append(len(self._lengths[split]))
            np.add.at(self._counts[split], tokens, 1)

    def close(self) -> CorpusSummary:
        """Writes the index and corpus.json."""
        for writer in self._writers.values():
            writer.close()
        summary = CorpusSummary(
            **{split: self._summary(split) for split in SPLITS},
            duplicates=self.dropped["duplicates"],
            empty_documents=self.dropped["empty_documents"],
            vocab_size=self._tokenizer.vocab_size,
        )
        if not summary.train.documents + summary.held_out.documents:
            raise UserError("the data holds no document with any words in it: expected text; see --data")
        for split in SPLITS:
            np.save(self._folder / f"{split}.sentence_lengths.npy", np.asarray(self._lengths[split], np.int32))
            np.save(self._folder / f"{split}.document_offsets.npy", np.asarray(self._offsets[split], np.int64))
        np.save(self._folder / "unigram_counts.npy", self._counts["train"])
        stored = dataclasses.asdict(summary) | {"dtype": self._dtype.name}
        (self._folder / "corpus.json").write_text(json.dumps(stored, indent=2), encoding="utf-8")
        return summary

    def _summary(self, split: Split) -> SplitSummary:
        counts = self._counts[split]
        documents, unknown = len(self._offsets[split]) - 1, int(counts[self._tokenizer.unknown_id])
        return SplitSummary(documents, len(self._lengths[split]), int(counts.sum()), unknown)
