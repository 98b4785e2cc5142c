"""From shards to a corpus: which documents stay, where each is found, and what was counted on the way.

Streams from disk to disk, one shard at a time; what stays in memory is two bytes a document.
"""

import contextlib
import dataclasses
import json
import pathlib
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

import numpy as np
from jaxtyping import Bool, Int64

from bert_jax.corpus import SPLITS, CorpusSummary, SplitSummary
from bert_jax.corpus_shards import DOCUMENTS, open_shard, read_columns, token_dtype
from bert_jax.near_duplicates import KEYED_POSITION, PERMUTATIONS, near_duplicates
from core_jax.atomic_files import write_atomically
from core_jax.errors import UserError
from core_jax.external_sort import sorted_buckets

KEY = np.dtype([("key", np.uint64)])


def index_shards(
    corpus: pathlib.Path, shards: Sequence[pathlib.Path], vocab_size: int, report: Callable[[str], None]
) -> CorpusSummary:
    """Makes shards a corpus: of documents with the same text the first stays.

    Args:
      corpus: folder for the index; corpus.json, the last file, says that all is there.
      shards: folders of the shards, in the order of their documents.
      vocab_size: number of ids, V.
      report: is told what is being done.
    Returns:
      What the corpus holds.
    Raises:
      UserError: a shard is damaged, or no document has any tokens.
    """
    report("joining the shards")
    joining = _Joining(corpus, shards)
    kept, duplicates = joining.first_occurrences()
    stored = np.concatenate([sentences > 0 for (sentences,) in joining.columns("sentences")])
    if not stored.any():
        raise UserError("the data holds no document with any words in it: expected text; see --data")
    report("looking for near duplicates")
    near = joining.near_duplicates(kept & stored)
    repeated = joining.repeated_sentences(kept)
    report("writing the index")
    sizes = joining.write_splits(kept & stored, vocab_size)
    summary = CorpusSummary(
        **sizes,
        duplicates=duplicates,
        near_duplicates=near,
        repeated_sentences=repeated,
        empty_documents=int((kept & ~stored).sum()),
        vocab_size=vocab_size,
    )
    stored_summary = dataclasses.asdict(summary) | {"dtype": token_dtype(vocab_size).name}
    write_atomically(corpus / "corpus.json", json.dumps(stored_summary, indent=2))
    return summary


class _Joining:
    """The steps, each of which reads the shards from the first to the last."""

    def __init__(self, corpus: pathlib.Path, shards: Sequence[pathlib.Path]):
        self._corpus, self._shards = corpus, shards
        sizes = [len(identities) for (identities,) in self.columns("identities")]
        self._starts: Int64[np.ndarray, " shards_plus_one"] = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    def columns(self, *names: str) -> Iterator[list[np.ndarray]]:
        """Fields of each shard's index."""
        for shard in self._shards:
            try:
                yield read_columns(shard, *names)
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                raise damaged_shard(shard, error) from error

    def _of(self, flags: Bool[np.ndarray, " D"]) -> Iterator[Bool[np.ndarray, " _"]]:
        """The flags of each shard's documents."""
        return (flags[start:end] for start, end in zip(self._starts[:-1], self._starts[1:], strict=True))

    def first_occurrences(self) -> tuple[Bool[np.ndarray, " D"], int]:
        """Which documents are the first with their text, and the number of others."""
        kept = np.ones(self._starts[-1], bool)

        def keyed():
            for (identities,), start in zip(self.columns("identities"), self._starts, strict=False):
                records = np.empty(len(identities), KEYED_POSITION)
                records["key"], records["position"] = identities, np.arange(start, start + len(identities))
                yield records

        for records in sorted_buckets(keyed, len(kept), self._corpus):
            kept[records["position"][1:][records["key"][1:] == records["key"][:-1]]] = False
        return kept, int((~kept).sum())

    def near_duplicates(self, used: Bool[np.ndarray, " D"]) -> int:
        """How many of the documents are nearly the same as one before."""
        with tempfile.TemporaryDirectory(dir=self._corpus) as room:
            file = pathlib.Path(room, "sketches")
            with file.open("wb") as stream:
                for sentences, sketches in self.columns("sentences", "sketches"):
                    rows = np.zeros((len(sentences), PERMUTATIONS), np.uint8)
                    rows[sentences > 0] = sketches
                    rows.tofile(stream)

            def read_bands():
                shards = zip(self._starts, self._of(used), self.columns("sentences", "bands"), strict=False)
                for start, flags, (sentences, bands) in shards:
                    yield start + np.flatnonzero(flags), bands[flags[sentences > 0]]

            shape = (len(used), PERMUTATIONS)
            return int(
                near_duplicates(read_bands, np.memmap(file, np.uint8, "r", shape=shape), pathlib.Path(room)).sum()
            )

    def repeated_sentences(self, kept: Bool[np.ndarray, " D"]) -> int:
        """How many sentences of the documents that stay had come before, there or elsewhere."""

        def keyed():
            fields = self.columns("sentences", "sentence_identities")
            for flags, (sentences, identities) in zip(self._of(kept), fields, strict=True):
                yield identities[np.repeat(flags, sentences)].view(KEY)

        count = sum(len(part) for part in keyed())
        buckets = sorted_buckets(keyed, count, self._corpus)
        return count - sum(1 + int((keys["key"][1:] != keys["key"][:-1]).sum()) for keys in buckets)

    def write_splits(self, used: Bool[np.ndarray, " D"], vocab_size: int) -> dict[str, SplitSummary]:
        """Writes where the documents of each split are found, and how often each id occurs in the training split."""
        counts = {split: np.zeros(vocab_size, np.int64) for split in SPLITS}
        with contextlib.ExitStack() as stack:
            files = {split: _SplitFiles(self._corpus, split, stack) for split in SPLITS}
            unknowns = self._fill_splits(files, counts, used, vocab_size)
            sizes = {
                split: SplitSummary(*files[split].finish(), int(counts[split].sum()), unknowns[split])
                for split in SPLITS
            }
        shard_bytes = [(shard / DOCUMENTS).stat().st_size for shard in self._shards]
        np.save(self._corpus / "shard_bytes.npy", np.array(shard_bytes, np.int64))
        np.save(self._corpus / "unigram_counts.npy", counts["train"])
        return sizes

    def _fill_splits(self, files, counts, used, vocab_size):
        """Appends every shard to the files and the counts; returns the number of unknown pieces of each split."""
        unknown = dict.fromkeys(SPLITS, 0)
        fields = self.columns("held_out", "sentences", "unknown", "lengths")
        for shard, flags, (held_out, sentences, unknowns, lengths) in zip(
            self._shards, self._of(used), fields, strict=True
        ):
            documents = self._documents(shard, vocab_size, int((sentences > 0).sum()))
            for split, chosen in zip(SPLITS, (flags & ~held_out, flags & held_out), strict=True):
                records = np.flatnonzero(chosen[sentences > 0])
                files[split].append(records, sentences[chosen], lengths[np.repeat(chosen, sentences)])
                unknown[split] += int(unknowns[chosen].sum())
                tokens = np.frombuffer(b"".join(documents[record] for record in records), token_dtype(vocab_size))
                counts[split] += np.bincount(tokens, minlength=vocab_size)
        return unknown

    def _documents(self, shard: pathlib.Path, vocab_size: int, expected: int) -> list[bytes]:
        try:
            documents = open_shard(shard).read_all()
        except (RuntimeError, ValueError, IndexError, OSError) as error:
            raise damaged_shard(shard, error) from error
        if len(documents) != expected:
            raise damaged_shard(shard, ValueError(f"{len(documents)} documents are there, expected {expected}"))
        return documents


class _SplitFiles:
    """The index of a split, written shard after shard."""

    def __init__(self, corpus: pathlib.Path, split: str, stack: contextlib.ExitStack):
        def grow(name: str, dtype: type) -> _GrowingArray:
            return _GrowingArray(stack.enter_context((corpus / f"{split}.{name}.npy").open("wb")), dtype)

        self._lengths, self._records = grow("sentence_lengths", np.int32), grow("records", np.int32)
        self._offsets, self._shard_starts = grow("document_offsets", np.int64), grow("shard_starts", np.int64)
        self._offsets.append(np.zeros(1, np.int64))
        self._shard_starts.append(np.zeros(1, np.int64))

    def append(self, records, sentences, lengths):
        """Adds the chosen documents of the next shard: their places in it, their sentences, the lengths of these."""
        self._offsets.append(self._lengths.size + np.cumsum(sentences, dtype=np.int64))
        self._lengths.append(lengths)
        self._records.append(records.astype(np.int32))
        self._shard_starts.append(np.array([self._records.size], np.int64))

    def finish(self) -> tuple[int, int]:
        """Notes the lengths; returns the number of documents and of sentences."""
        for array in (self._lengths, self._offsets, self._records, self._shard_starts):
            array.finish()
        return self._records.size, self._lengths.size


class _GrowingArray:
    """A .npy file of one axis whose length is known at the end."""

    def __init__(self, file: BinaryIO, dtype: type):
        self._file, self._dtype, self.size = file, np.dtype(dtype), 0
        self._write_header()

    def _write_header(self):
        # NumPy leaves room in the header for the length to grow, so that it can be written again in its place.
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self.size,)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, values: np.ndarray) -> None:
        """Writes values behind those that are there."""
        values.astype(self._dtype, copy=False).tofile(self._file)
        self.size += len(values)

    def finish(self) -> None:
        """Notes the length."""
        self._file.seek(0)
        self._write_header()


def damaged_shard(shard: pathlib.Path, error: Exception) -> UserError:
    """The message where a part of a corpus cannot be read."""
    return UserError(
        f"the part {shard} of the tokenised text is damaged ({error}). Delete it, and type the same command again to "
        f"make it anew: rm -r {shard}"
    )
