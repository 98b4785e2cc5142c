"""Writes sentence embeddings:   python -m experiments.embed --init=hf:DIR --data=text:FILES --output=vectors.npy

Type the same command again and it goes on where it stopped.
"""

import dataclasses
import importlib.util
import itertools
import os
import shutil
from collections.abc import Iterator
from typing import Literal

import jax
import numpy as np
from rich import progress

from bert_jax.config import BertConfig
from bert_jax.embedding import embed_texts, encoder_params, make_embedder
from bert_jax.starting_points import open_starting_point
from core_jax.config import ELASTIC, differences, from_json, require, to_json
from core_jax.errors import UserError
from core_jax.run_lock import lock
from core_jax.sharding import parse_mesh, tree_shardings
from core_jax.sources import check_source, read_documents
from core_jax.workdir import write_atomically
from experiments.console import StopRequest, console, parse_flags, run_command, say

TEXTS_AT_ONCE = 4096  # in a part that is written: what a killed run loses at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedding:
    """Writes one vector for each text."""

    init: str  # hf:DIR, tf:PREFIX, or the work folder of a run
    data: str = "sample"  # sample, text:GLOB, jsonl:GLOB or tfds:NAME[/CONFIG], as for pretraining
    text_column: str = "text"  # field of tfds: and jsonl: that holds the text
    data_split: str = "train"  # split of tfds:
    data_dir: str = ""  # where TFDS keeps its datasets; by default where TFDS itself looks
    output: str  # FILE.npy, float32 [texts, width], or FILE.parquet with the columns text and embedding
    pooling: Literal["mean", "cls", "max"] = "mean"  # over the tokens of a text
    normalize: bool = False  # whether each vector is scaled to length 1
    sequence_length: int = 256  # tokens of a text at most; what is longer is cut off
    batch_size: int = dataclasses.field(default=128, metadata=ELASTIC)  # texts that are computed together
    mesh: str = dataclasses.field(default="data:-1", metadata=ELASTIC)  # devices by axis, as for pretraining
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of computation

    def __post_init__(self):
        good = self.output.endswith((".npy", ".parquet"))
        require(good, f"--output={self.output}: expected a name that ends in .npy or .parquet")
        require(self.sequence_length >= 8, f"--sequence_length={self.sequence_length}: expected 8 or more")
        require(self.batch_size > 0, f"--batch_size={self.batch_size}: expected 1 or more")
        need = self.output.endswith(".parquet") and importlib.util.find_spec("pyarrow") is None
        require(not need, f"--output={self.output}: Parquet needs pyarrow. Type: pip install pyarrow, or write .npy")


def main(arguments: list[str]) -> int:
    """Embeds and writes; returns the exit code."""
    flags = parse_flags(Embedding, arguments, "Writes one vector for each text.")
    if os.path.exists(flags.output):
        say(f"{flags.output} is there already: delete it, or choose another --output")
        return 0
    source = {"text_column": flags.text_column, "split": flags.data_split, "data_dir": flags.data_dir or None}
    check_source(flags.data, **source)
    parts = f"{flags.output}.parts"
    claim(parts, flags)
    with lock(parts, "--output"), StopRequest().listening() as stopping:
        for done in write_parts(flags, parts, source):
            if stopping():
                say(f"stopped after {done:,} texts; all is saved: type the same command again to go on")
                return stopping.exit_code
        count, width = join(flags, parts, source)
    shutil.rmtree(parts)
    say(f"{flags.output}: {count:,} vectors of {width} numbers, {flags.pooling} pooling")
    return 0


def claim(parts: str, flags: Embedding) -> None:
    """Makes the folder of the parts, or finds those of the same command.

    Raises:
      UserError: they are of another.
    """
    settings = os.path.join(parts, "settings.json")
    os.makedirs(parts, exist_ok=True)
    if not os.path.exists(settings):
        write_atomically(settings, to_json(flags))
        return
    with open(settings, encoding="utf-8") as file:
        changed = differences(flags, from_json(Embedding, file.read()))
    if changed:
        lines = (f"--{name}: {theirs!r} there, {ours!r} now" for name, (ours, theirs) in changed.items())
        raise UserError(f"{parts} is of another command ({'; '.join(lines)}): repeat that, or delete the folder")


def write_parts(flags: Embedding, parts: str, source: dict) -> Iterator[int]:
    """Embeds part by part, those that are there left out; gives how many texts are done after each."""
    mesh = parse_mesh(flags.mesh)
    start = open_starting_point(flags.init, mesh, flags.sequence_length, say)
    if not isinstance(start.config, BertConfig):
        raise UserError(f"--init={flags.init} is a GPT, which has no state of a whole text; expected a BERT")
    config = dataclasses.replace(start.config, dtype=flags.dtype)
    encoder = encoder_params(start.params["bert"], config)
    params = jax.device_put(encoder, tree_shardings(encoder, mesh))
    embed = make_embedder(config, flags.pooling, normalize=flags.normalize)
    documents, done = iter(read_documents(flags.data, **source)), 0
    columns = (progress.TextColumn("{task.completed:,.0f} texts"), progress.TextColumn("{task.fields[rate]}"))
    with progress.Progress(*columns, progress.TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("embedding", total=None, rate="")
        for number in itertools.count():
            texts = list(itertools.islice(documents, TEXTS_AT_ONCE))
            if not texts:
                return
            path = os.path.join(parts, f"{number:06}.npy")
            if not os.path.exists(path):
                size = {"batch_size": flags.batch_size, "sequence_length": flags.sequence_length}
                vectors = embed_texts(embed, params, texts, start.tokenizer, mesh, **size)
                with open(f"{path}.tmp", "wb") as file:
                    np.save(file, vectors)
                os.replace(f"{path}.tmp", path)
            done += len(texts)
            bar.update(task, completed=done)
            yield done


def join(flags: Embedding, parts: str, source: dict) -> tuple[int, int]:
    """Joins the parts to the output; gives its numbers of rows and columns."""
    files = sorted(os.path.join(parts, name) for name in os.listdir(parts) if name.endswith(".npy"))
    arrays = [np.load(file, mmap_mode="r") for file in files]
    count, width = sum(len(array) for array in arrays), arrays[0].shape[1]
    temporary = f"{flags.output}.tmp"
    if flags.output.endswith(".npy"):
        joined = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=(count, width))
        np.concatenate(arrays, out=joined)
        joined.flush()
    else:
        import pyarrow
        from pyarrow import parquet

        kind = pyarrow.list_(pyarrow.float32(), width)
        schema = pyarrow.schema([("text", pyarrow.string()), ("embedding", kind)])
        documents = iter(read_documents(flags.data, **source))
        with parquet.ParquetWriter(temporary, schema) as writer:
            for array in arrays:
                texts = list(itertools.islice(documents, len(array)))
                vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.asarray(array).ravel()), width)
                writer.write_table(pyarrow.table([pyarrow.array(texts), vectors], schema=schema))
    os.replace(temporary, flags.output)
    return count, width


if __name__ == "__main__":
    run_command(main)
