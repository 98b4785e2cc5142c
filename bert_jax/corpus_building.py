"""Builds a corpus from slices of a text, in one process, in several, or on many machines: with the same bytes."""

import concurrent.futures
import dataclasses
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence

import loky

from bert_jax.corpus import CorpusSummary
from bert_jax.corpus_index import index_shards
from bert_jax.corpus_shards import ShardWriter, shard_folder
from bert_jax.tokenizer import Tokenizer
from core_jax.errors import UserError

Slices = Sequence[tuple[int, Iterable[str]]]  # number of the shard, documents
# One thread in each process: there are as many processes as cores.
SINGLE_THREADED = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far the tokenising is: shards that are written, of how many, and the tokens in those written now."""

    shards: int
    of: int
    tokens: int


def write_here(writer: ShardWriter, slices: Slices) -> Iterator[int]:
    """Writes shards in this process, one after the other; the tokenizer uses all cores.

    Args:
      writer: of the corpus.
      slices: to write.
    Yields:
      The number of tokens of each shard that is done.
    """
    for number, documents in slices:
        yield writer.write(number, documents)


@dataclasses.dataclass(frozen=True)
class ProcessPool:
    """Writes shards in several processes of this machine.

    Attributes:
      workers: number of processes.
    """

    workers: int

    def __call__(self, writer: ShardWriter, slices: Slices) -> Iterator[int]:
        """As `write_here`; shards are done in any order, and slices must be of a kind that can be pickled."""
        # loky rather than the standard library's pool: its processes do not import the main module, which would bring
        # JAX into each of them, and they end by themselves after this process was killed.
        pool = loky.ProcessPoolExecutor(min(self.workers, len(slices)), timeout=60, env=SINGLE_THREADED)
        try:
            tasks = [pool.submit(writer.write, number, documents) for number, documents in slices]
            for task in concurrent.futures.as_completed(tasks):
                yield task.result()
        except loky.process_executor.TerminatedWorkerError as error:
            raise UserError(
                "a process that tokenised text was killed, most likely because the memory was full. Type the same "
                "command again with fewer --workers: what is done is kept"
            ) from error
        finally:
            pool.shutdown(wait=True, kill_workers=True)


def build_corpus(
    slices: Sequence[Iterable[str]],
    tokenizer: Tokenizer,
    directory: str | os.PathLike,
    *,
    held_out: float,
    language: str = "en",
    write: Callable[[ShardWriter, Slices], Iterator[int]] = write_here,
    report: Callable[[Progress | str], None] = lambda _: None,
) -> CorpusSummary:
    """Splits documents into sentences, tokenises them and writes both splits; streams, so memory stays small.

    Which split a document is in follows from its text alone: the same text never is in both, whatever the order.
    Exact duplicates are dropped, apart from the first. Shards that an interrupted call has left are used.

    Args:
      slices: the text; each slice gives its documents whenever it is iterated, and becomes a shard.
      tokenizer: cuts sentences into pieces.
      directory: folder to make; `corpus_exists` when all is written.
      held_out: share of the documents in the held-out split, 0 to 1.
      language: ISO 639-1 code, for the rules of abbreviations; empty: documents are not split.
      write: how shards are written: `write_here`, a ProcessPool, or a BeamPipeline.
      report: is told how far it is, and in words what comes after.
    Returns:
      What was written.
    Raises:
      UserError: no document has any tokens, `held_out` is not a share, or the text cannot be read.
    """
    if not 0 <= held_out < 1:
        raise UserError(f"--held_out={held_out}: expected a share of the documents, at least 0 and below 1")
    writer = ShardWriter(str(directory), tokenizer, held_out, language)
    shards = [shard_folder(directory, number) for number in range(len(slices))]
    _remove_unfinished(pathlib.Path(directory, "shards"))
    missing = [(number, part) for number, part in enumerate(slices) if not writer.is_written(number, part)]
    done, tokens = len(slices) - len(missing), 0
    report(Progress(done, len(slices), tokens))
    for count in write(writer, missing) if missing else ():
        done, tokens = done + 1, tokens + count
        report(Progress(done, len(slices), tokens))
    return index_shards(pathlib.Path(directory), shards, tokenizer.vocab_size, report)


def _remove_unfinished(shards: pathlib.Path) -> None:
    """Removes what processes that were killed had begun."""
    for folder in shards.glob(".*"):
        shutil.rmtree(folder, ignore_errors=True)
