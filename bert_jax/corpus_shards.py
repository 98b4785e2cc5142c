"""Shards: the parts of a corpus, each made from a slice of the text by whatever process, without looking at the others.

A shard holds all its documents that have any tokens. Which of them the corpus keeps, and where, is decided when all
shards are there; see corpus_index.py. Imports little, since every worker process does so, too.

Axes: D documents, K documents with tokens, S sentences, T tokens, V ids.
"""

import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
import pickle
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from jaxtyping import Bool, Int32, UInt8, UInt64
from sentencex import segment  # pyright: ignore[reportAttributeAccessIssue]

from bert_jax.near_duplicates import sign
from bert_jax.tokenizer import Tokenizer
from core_jax.atomic_files import new_folder

SENTENCES_AT_ONCE = 4096  # tokenised together: enough for all cores, little memory
DOCUMENTS, INDEX = "documents.array_record", "index.npz"  # files of a shard
Batch = list[tuple[int, bool, list[str]]]  # documents: identity, whether held out, sentences


@dataclasses.dataclass(frozen=True)
class ShardIndex:
    """What a shard's documents are like, in their order.

    Attributes:
      identities: a hash of each document's text.
      held_out: whether a document belongs to the held-out split.
      sentences: of each document, those without tokens left out; 0: it has none, and is not stored.
      unknown: tokens of each document for which the vocabulary had no piece.
      lengths: tokens of each sentence.
      sentence_identities: a hash of each sentence's text.
      bands, sketches: of each document that is stored, for near_duplicates.py.
    """

    identities: UInt64[np.ndarray, " D"]
    held_out: Bool[np.ndarray, " D"]
    sentences: Int32[np.ndarray, " D"]
    unknown: Int32[np.ndarray, " D"]
    lengths: Int32[np.ndarray, " S"]
    sentence_identities: UInt64[np.ndarray, " S"]
    bands: UInt64[np.ndarray, "K bands"]
    sketches: UInt8[np.ndarray, "K permutations"]


NAMES = [field.name for field in dataclasses.fields(ShardIndex)]


def shard_folder(corpus: str | os.PathLike, number: int) -> pathlib.Path:
    """Where a shard of a corpus lies."""
    return pathlib.Path(corpus, "shards", f"{number:08d}")


@dataclasses.dataclass(frozen=True)
class ShardWriter:
    """Writes the shards of one corpus; may be sent to other processes and machines.

    Attributes:
      directory: of the corpus.
      tokenizer: cuts sentences into pieces.
      held_out: share of the documents in the held-out split.
      language: ISO 639-1 code, for the rules of abbreviations; empty: a document is one sentence, spaces and all.
    """

    directory: str
    tokenizer: Tokenizer
    held_out: float
    language: str

    @functools.cached_property
    def _fingerprint(self) -> str:
        settings = pickle.dumps((self.tokenizer, self.held_out, self.language))
        return hashlib.sha256(settings).hexdigest()

    def _origin(self, documents: Iterable[str]) -> str:
        """What a shard follows from; text that is no slice of a source is known by nothing."""
        source = repr(documents) if dataclasses.is_dataclass(documents) else "memory"
        return f"{self._fingerprint} {source}"

    def is_written(self, number: int, documents: Iterable[str]) -> bool:
        """Whether a shard is there, whole, and was made from these documents in the same way."""
        try:
            return (shard_folder(self.directory, number) / "origin.txt").read_text(encoding="utf-8") == self._origin(
                documents
            )
        except FileNotFoundError:
            return False

    def write(self, number: int, documents: Iterable[str]) -> int:
        """Makes a shard; it gets its name when it is whole.

        Args:
          number: of the shard.
          documents: its texts; a line end also ends a sentence.
        Returns:
          Number of tokens.
        """
        target = shard_folder(self.directory, number)
        with new_folder(target) as temporary:
            shard = _Shard(temporary / DOCUMENTS, self.tokenizer)
            for batch in _batches(_split(documents, self.held_out, self.language)):
                shard.append(batch)
            shard.close()
            _save(temporary / INDEX, shard.index())
            (temporary / "origin.txt").write_text(self._origin(documents), encoding="utf-8")
            shutil.rmtree(target, ignore_errors=True)  # of other settings
        return shard.tokens

    def tokens(self, number: int) -> int:
        """Number of tokens of a shard that is written."""
        [lengths] = read_columns(shard_folder(self.directory, number), "lengths")
        return int(lengths.sum(dtype=np.int64))


class _Shard:
    """Tokenises batches of documents and appends them."""

    def __init__(self, file: pathlib.Path, tokenizer: Tokenizer):
        self.identities: list[int] = []
        self.tokens = 0
        self._held_out: list[bool] = []
        self._tokenizer, self._dtype = tokenizer, token_dtype(tokenizer.vocab_size)
        self._parts: dict[str, list[Any]] = {name: [] for name in NAMES}
        # Each document can be read on its own.
        self._writer = ArrayRecordWriter(str(file), "group_size:1,uncompressed")
        self.close = self._writer.close

    def append(self, batch: Batch) -> None:
        """Appends documents."""
        texts = [sentence for _, _, sentences in batch for sentence in sentences]
        encoded = self._tokenizer.encode(texts)
        lengths = np.fromiter(map(len, encoded), np.int32, len(encoded))
        tokens = np.fromiter(itertools.chain.from_iterable(encoded), np.int32, int(lengths.sum()))
        document = np.repeat(np.arange(len(batch)), [len(sentences) for _, _, sentences in batch])
        sizes = np.bincount(document, lengths, len(batch)).astype(np.int64)  # tokens of each document
        ends = np.cumsum(sizes)
        stored = tokens.astype(self._dtype)
        for start, end in zip((ends - sizes).tolist(), ends.tolist(), strict=True):
            if end > start:
                self._writer.write(stored[start:end].tobytes())
        is_unknown = tokens == self._tokenizer.unknown_id
        bands, sketches = sign(tokens, sizes[sizes > 0])
        rows = {
            "sentences": np.bincount(document[lengths > 0], minlength=len(batch)).astype(np.int32),
            "unknown": np.bincount(np.repeat(np.arange(len(batch)), sizes), is_unknown, len(batch)).astype(np.int32),
            "lengths": lengths[lengths > 0],
            "sentence_identities": np.array([hashes(text)[0] for text in texts], np.uint64)[lengths > 0],
            "bands": bands,
            "sketches": sketches,
        }
        for name, values in rows.items():
            self._parts[name].append(values)
        self.tokens += len(tokens)
        self.identities += [identity for identity, _, _ in batch]
        self._held_out += [held_out for _, held_out, _ in batch]

    def index(self) -> ShardIndex:
        """What was appended."""
        if not self.identities:  # gives the arrays of a shard without documents their shapes
            self.append([])
        joined = {name: np.concatenate(parts) for name, parts in self._parts.items() if parts}
        return ShardIndex(np.array(self.identities, np.uint64), np.array(self._held_out, bool), **joined)


def token_dtype(vocab_size: int) -> np.dtype:
    """How ids are stored."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.int32)


def _split(documents: Iterable[str], held_out: float, language: str) -> Iterator[tuple[int, bool, list[str]]]:
    for document in documents:
        identity, place = hashes(document)
        lines = document.splitlines() if language else ()
        sentences = [sentence for line in lines if line.strip() for sentence in segment(language, line)]
        sentences = sentences if language else [document]
        yield identity, place < held_out * 2**64, sentences


def is_held_out(document: str, held_out: float) -> bool:
    """Whether a document is in the held-out split: decided by its text alone, apart from spaces.

    Args:
      document: its text.
      held_out: share of the documents in that split, 0 to 1.
    """
    return hashes(document)[1] < held_out * 2**64


def hashes(text: str) -> tuple[int, int]:
    """Two independent 64-bit numbers that follow from a text, apart from spaces: who it is, and where it goes."""
    digest = hashlib.blake2b(" ".join(text.split()).encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8]), int.from_bytes(digest[8:])


def _batches(documents: Iterator[tuple[int, bool, list[str]]]) -> Iterator[Batch]:
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += 1 + len(document[2])
        if size >= SENTENCES_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _save(file: pathlib.Path, index: ShardIndex) -> None:
    np.savez(file, **{name: getattr(index, name) for name in NAMES})


def read_columns(folder: pathlib.Path, *names: str) -> list[np.ndarray]:
    """Reads some fields of a shard's ShardIndex.

    Args:
      folder: of the shard.
      names: of the fields.
    Raises:
      OSError, ValueError, KeyError, zipfile.BadZipFile: it is damaged.
    """
    # Opened here: of a damaged file, np.load would leave it open.
    with (folder / INDEX).open("rb") as file, np.load(file) as stored:
        return [stored[name] for name in names]


def open_shard(folder: pathlib.Path) -> Any:
    """Opens a shard's documents at random access; which are arrays of bytes in `token_dtype`."""
    # Documents are read one here, one there: reading ahead would be in vain.
    return ArrayRecordReader(str(folder / DOCUMENTS), "readahead_buffer_size:0")
