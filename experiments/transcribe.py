"""Writes down what is said in recordings:   python -m experiments.transcribe --init=hf:DIR clip.wav ...

A line of JSON comes for each recording: its text, and its pieces with the seconds where they begin and end. With
--data, the texts that are known are held against those that were written: word and character error rate.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import jax
import tyro
from rich.progress import Progress

from bert_jax.transcript_tokens import Task, TranscriptTokens
from core_jax.config import require
from core_jax.labelled_data import read_records
from core_jax.sharding import check_mesh, parse_mesh
from experiments import planning
from experiments.console import errors, parse_flags, print_table, report, run_command
from experiments.speech.recognizer import Recognizer, Recording
from experiments.speech.starting_points import read_sizes, read_whisper, vocabulary_folder
from experiments.speech.transcripts import read_tokens
from experiments.speech.weights import Whisper, parameter_shapes
from experiments.speech.word_errors import count_errors
from vit_jax.audio_files import read_audio


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transcription:
    """Writes down what is said."""

    files: Annotated[tuple[str, ...], tyro.conf.Positional] = ()  # recordings
    # a Whisper: hf:DIR (transformers), ct2:DIR (CTranslate2), or the work folder of --task=transcription
    init: str
    data: str = ""  # recordings with the texts that are said in them: jsonl:FILES, csv:FILES or tsv:FILES
    audio_column: str = "audio"  # of --data: paths
    text_column: str = "text"  # of --data
    language: str = "auto"  # its code, such as en; auto: the model tells it from the first seconds
    task: Task = "transcribe"  # what to write: what is said, or that in English
    timestamps: bool = True  # whether pieces have times; without, a long recording is cut every 30 seconds
    batch_size: int = 8  # recordings that are heard together
    mesh: str = "data:-1"  # devices by axis, as for pretraining
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of computation
    # compile what would be computed for a TPU slice that is not here, such as v5e-4; report, write nothing down
    plan: str = ""

    def __post_init__(self):
        require(self.batch_size > 0, f"--batch_size={self.batch_size}: expected 1 or more")


def main(arguments: list[str]) -> int:
    """Transcribes and prints; returns the exit code."""
    flags = parse_flags(Transcription, arguments, "Writes down what is said in recordings.")
    if flags.plan:
        return plan(flags)
    given = bool(flags.files) != bool(flags.data)
    require(given, "expected recordings, such as clip.wav, or --data=jsonl:FILE, and not both")
    mesh = parse_mesh(flags.mesh)
    whisper = in_dtype(read_whisper(flags.init, mesh, report), flags.dtype)
    tokens = read_tokens(vocabulary_folder(flags.init), whisper.decoder.vocab_size, whisper.settings)
    check_mesh(mesh, whisper.params, mesh.size)
    if flags.language != "auto":
        tokens.prompt(flags.language, flags.task, stamps=flags.timestamps)
    texts = known_texts(flags)
    recognizer = Recognizer(
        whisper, tokens, mesh, task=flags.task, stamps=flags.timestamps, batch_size=min(flags.batch_size, len(texts))
    )
    recordings = [recognizer.record(read_audio(path), flags.language) for path, _ in texts]
    seconds, start = sum(one.seconds for one in recordings), time.perf_counter()
    with Progress(console=errors, transient=True) as bar:
        task = bar.add_task("hearing", total=seconds)
        recognizer.transcribe(recordings, lambda heard: bar.advance(task, heard))
    taken = time.perf_counter() - start
    written = [recognizer.text(one) for one in recordings]
    for (path, _), one, text in zip(texts, recordings, written, strict=True):
        if jax.process_index() == 0:
            report(json.dumps(line(path, one, text, tokens), ensure_ascii=False))
    errors.print(f"{seconds:,.1f} seconds of sound in {taken:,.1f} seconds, compilation included", markup=False)
    if flags.data:
        show_errors([text for _, text in texts], written)
    return 0


def plan(flags: Transcription) -> int:
    """Compiles hearing and writing for the slice that --plan names, and reports; returns the exit code."""
    sizes, planner = read_sizes(flags.init, 0.0), planning.planner_for(flags.plan, flags.mesh)
    shapes = parameter_shapes(sizes.encoder, sizes.decoder)
    check_mesh(planner.mesh, shapes, planner.mesh.size)
    whisper = in_dtype(Whisper(sizes.encoder, sizes.decoder, shapes, sizes.settings), flags.dtype)
    tokens = read_tokens(vocabulary_folder(flags.init), sizes.decoder.vocab_size, sizes.settings)
    with jax.set_mesh(planner.mesh):  # the type of computation is that of its devices
        options = {"task": flags.task, "stamps": flags.timestamps, "batch_size": flags.batch_size}
        Recognizer(whisper, tokens, planner.mesh, **options).plan(planner)
    return planning.show_calls(planner)


def in_dtype(whisper: Whisper, dtype: Literal["auto", "float32", "bfloat16"]) -> Whisper:
    """The model, computed in a type."""
    encoder, decoder = (dataclasses.replace(part, dtype=dtype) for part in (whisper.encoder, whisper.decoder))
    return dataclasses.replace(whisper, encoder=encoder, decoder=decoder)


def known_texts(flags: Transcription) -> list[tuple[str, str]]:
    """Paths, each with the text that is known to be said."""
    if flags.files:
        return [(path, "") for path in flags.files]
    columns = flags.audio_column, flags.text_column
    return [(str(record[columns[0]]), str(record[columns[1]])) for record in read_records(flags.data, columns)]


def line(path: str, one: Recording, text: str, tokens: TranscriptTokens) -> dict[str, Any]:
    """What is printed of a recording."""
    pieces = [
        {"start": round(piece.start, 2), "end": round(piece.end, 2), "text": tokens.text(piece.tokens).strip()}
        for piece in one.segments
    ]
    return {"audio": path, "language": one.language, "seconds": round(one.seconds, 2), "text": text, "pieces": pieces}


def show_errors(known: Sequence[str], written: Sequence[str]) -> None:
    """Prints word and character error rate, without case and punctuation."""
    words, characters = count_errors(known, written)
    rows = [
        (name, f"{100 * one.rate:.2f} %", *map(str, (one.substituted, one.left_out, one.added, one.all)))
        for name, one in (("words", words), ("characters", characters))
    ]
    print_table("without case and punctuation", ("", "error rate", "substituted", "left out", "added", "in all"), rows)


if __name__ == "__main__":
    run_command(main)
