"""From a source of text to a vocabulary and a tokenised corpus, both in one folder: the one way to either."""

import dataclasses
import itertools
import os
import shlex
from collections.abc import Callable, Iterator, Sequence

import loky

from bert_jax.beam_pipeline import BeamPipeline
from bert_jax.corpus import corpus_exists, open_corpus
from bert_jax.corpus_building import ProcessPool, Progress, build_corpus, write_here
from bert_jax.corpus_shards import hashes
from bert_jax.tokenizer import Tokenizer
from bert_jax.tokenizer_files import load_tokenizer
from bert_jax.tokenizer_training import train_byte_level_bpe, train_sentencepiece, train_wordpiece
from core_jax.atomic_files import new_folder
from core_jax.config import ELASTIC, require
from core_jax.errors import UserError
from core_jax.sources import SLICE_BYTES, SourceSlice, check_source, source_slices

TRAINED_TOKENIZERS = ("wordpiece", "sentencepiece", "sentencepiece-bpe", "byte-bpe")
PREPARED = "arrayrecord:"  # --data=arrayrecord:DIR, where DIR is what `prepare` has filled
READ_FOR_VOCABULARY = 10  # times the text that is used: enough to choose from, where there is very much


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preparation:
    """Which text is cut into which pieces."""

    data: str = "sample"  # sample, tfds:NAME[/CONFIG], text:GLOB or jsonl:GLOB
    text_column: str = "text"  # field of tfds: and jsonl: that holds the text
    data_split: str = "train"  # split of tfds:
    data_dir: str = ""  # where TFDS keeps its datasets; by default where TFDS itself looks
    language: str = "en"  # of the sentence splitter: an ISO 639 code; empty: documents stay whole, as for GPT
    # trained from the text (wordpiece, sentencepiece, sentencepiece-bpe; for GPT byte-bpe), or the path of one
    tokenizer: str = "wordpiece"
    vocab_size: int = 30_522  # pieces of a vocabulary to train; one that is given brings its own number
    lowercase: bool = True  # whether a trained WordPiece vocabulary ignores case and accents
    # bytes of text that a vocabulary is trained on, at most: documents chosen by their hash. WordPiece keeps only the
    # words in memory; SentencePiece keeps the text itself, many times over
    vocabulary_bytes: int = 200_000_000
    held_out: float = 0.05  # share of the documents that is never trained on, chosen by their hash
    slice_bytes: int = int(SLICE_BYTES)  # of text that one process works on at a time; each gives one file
    workers: int = dataclasses.field(default=0, metadata=ELASTIC)  # processes; 0: one on each core
    # Apache Beam's DirectRunner, FlinkRunner, SparkRunner, ...: preparation on many machines, which share --output
    beam_runner: str = dataclasses.field(default="", metadata=ELASTIC)
    # flags of Beam, with spaces between, such as "--direct_num_workers=2 --direct_running_mode=multi_processing"
    beam_options: str = dataclasses.field(default="", metadata=ELASTIC)

    def __post_init__(self):
        require(0 < self.held_out < 1, f"--held_out={self.held_out}: expected a share, more than 0 and less than 1")
        for name in ("vocab_size", "vocabulary_bytes", "slice_bytes"):
            require(getattr(self, name) > 0, f"--{name}={getattr(self, name)}: expected a positive number")
        require(self.workers >= 0, f"--workers={self.workers}: expected 1 or more, or 0 for one on each core")


def check_preparation(config: Preparation, folder: str) -> None:
    """Raises for mistakes that show without reading the text.

    Raises:
      UserError: no such text, no such tokenizer.
    """
    if config.tokenizer not in TRAINED_TOKENIZERS:
        load_tokenizer(config.tokenizer)
    if config.beam_runner:
        BeamPipeline(config.beam_runner, tuple(shlex.split(config.beam_options)))
    if not is_prepared(folder):
        check_source(
            config.data,
            text_column=config.text_column,
            split=config.data_split,
            data_dir=config.data_dir or None,
        )


def is_prepared(folder: str) -> bool:
    """Whether a folder's vocabulary and corpus are complete, so that the source is not needed any more."""
    return os.path.isdir(os.path.join(folder, "tokenizer")) and corpus_exists(os.path.join(folder, "corpus"))


def prepared_folder(data: str) -> str | None:
    """DIR of `arrayrecord:DIR`, or None where the text is somewhere else.

    Raises:
      UserError: that folder is not prepared.
    """
    if not data.startswith(PREPARED):
        return None
    folder = os.path.expanduser(data.removeprefix(PREPARED))
    if not is_prepared(folder):
        unfinished = os.path.exists(os.path.join(folder, "corpus"))
        raise UserError(
            f"--data={data}: "
            + (f"the text in {folder} is not complete" if unfinished else f"no prepared text in {folder}")
            + f". Type: python -m experiments.prepare --data=... --output={folder}"
        )
    open_corpus(os.path.join(folder, "corpus"), "train")
    return folder


def prepare(
    config: Preparation,
    folder: str,
    report: Callable[[Progress | str], None],
) -> None:
    """Makes what is not there yet of a folder's `tokenizer` and `corpus`; goes on where it was interrupted.

    Args:
      config: says which text and which vocabulary.
      folder: to fill.
      report: is told what is being made, and how far it is.
    Raises:
      UserError: the text or the vocabulary cannot be read, or is too small.
    """
    if is_prepared(folder):
        return
    slices = source_slices(
        config.data,
        text_column=config.text_column,
        split=config.data_split,
        data_dir=config.data_dir or None,
        slice_bytes=float(config.slice_bytes),
    )
    tokenizer_folder = os.path.join(folder, "tokenizer")
    if not os.path.isdir(tokenizer_folder):
        save_tokenizer(_make_tokenizer(config, slices, report), tokenizer_folder)
    report("tokenising the text")
    build_corpus(
        slices,
        load_tokenizer(tokenizer_folder),
        os.path.join(folder, "corpus"),
        held_out=config.held_out,
        language=config.language,
        write=_way_to_write(config, len(slices)),
        report=report,
    )


def _way_to_write(config, slices):
    if config.beam_runner:
        return BeamPipeline(config.beam_runner, tuple(shlex.split(config.beam_options)))
    workers = config.workers or loky.cpu_count()
    return write_here if workers == 1 or slices == 1 else ProcessPool(workers)  # a pool costs a second


def save_tokenizer(tokenizer: Tokenizer, folder: str) -> None:
    """Writes a tokenizer; several files: the folder gets its name when all are there."""
    with new_folder(folder) as unfinished:
        tokenizer.save(unfinished)


def _make_tokenizer(config, slices, report):
    if config.tokenizer not in TRAINED_TOKENIZERS:
        return load_tokenizer(config.tokenizer)
    report(f"training a {config.tokenizer} vocabulary of {config.vocab_size:,} pieces")
    documents = vocabulary_documents(slices, config.held_out, config.vocabulary_bytes)
    if config.tokenizer == "wordpiece":
        return train_wordpiece(documents, config.vocab_size, config.lowercase)
    if config.tokenizer == "byte-bpe":
        return train_byte_level_bpe(documents, config.vocab_size)
    model_type = "bpe" if config.tokenizer == "sentencepiece-bpe" else "unigram"
    return train_sentencepiece(documents, config.vocab_size, model_type)


def vocabulary_documents(slices: Sequence[SourceSlice], held_out: float, limit: int) -> Iterator[str]:
    """The documents that a vocabulary is trained on: training documents, which of them is decided by their text.

    Args:
      slices: the text; where it is much longer than what is used, only evenly spaced ones are read.
      held_out: share of the held-out documents, from which the vocabulary, too, learns nothing.
      limit: bytes of text, about.
    """
    whole = sum(part.bytes for part in slices)
    read = slices[:: max(1, whole // (READ_FOR_VOCABULARY * limit))]
    share = limit / max(1, sum(part.bytes for part in read))
    for document in itertools.chain.from_iterable(read):
        identity, place = hashes(document)
        if place >= held_out * 2**64 and identity < share * 2**64:
            yield document
