"""Prepares a text once:   python -m experiments.prepare --data=text:books/*.txt --output=DIR

Type the same command again and it goes on where it stopped. Then: python -m experiments.pretrain --data=arrayrecord:DIR
"""

import dataclasses
import json
import os
import shlex
import signal
import sys
import time

import jax
from rich import progress

from bert_jax.corpus_building import Progress
from bert_jax.corpus_report import (
    CorpusFigures,
    corpus_figures,
    document_histogram,
    draw_document_lengths,
    measure_padding,
    measure_reading,
)
from bert_jax.diagnosis import Finding, corpus_findings
from bert_jax.preparation import Preparation, check_preparation, prepare
from bert_jax.tokenizer_files import load_tokenizer
from core_jax.atomic_files import write_atomically
from core_jax.config import require
from core_jax.run_lock import lock
from core_jax.workdir import claim_workdir, filling
from experiments.console import console, parse_flags, print_table, run_command, say, typed_command

SECONDS_OF_READING = 2.0
SECONDS_BETWEEN_LINES = 10.0  # of progress, in a pipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Prepares a text once, for any number of runs: a vocabulary, a tokenised corpus and a report on it."""

    output: str = ""  # folder to make; a local one, or one on a shared file system
    preparation: Preparation


def main(arguments: list[str]) -> int:
    """Prepares and reports; returns the exit code."""
    jax.config.update("jax_platforms", "cpu")  # accelerators are not needed, and may be in use
    command = parse_flags(Command, arguments, "Prepares a text once, for any number of pretraining runs.")
    folder, config = command.output, command.preparation
    require(bool(folder), "no folder to write to. Type: --output=DIR")
    require(
        "://" not in folder, f"--output={folder}: expected a local folder; copy it to where it is needed afterwards"
    )
    check_preparation(config, folder)
    claim_workdir(folder, config, "--output")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with lock(folder, "--output"):
        if not os.path.exists(os.path.join(folder, "report.json")):
            try:
                rate = run(config, folder)
            except KeyboardInterrupt:
                say("stopped; what is done is kept: type the same command again to go on")
                return 128 + signal.SIGINT
            save_report(folder, rate, in_sentences=bool(config.language))
        show_report(folder, in_sentences=bool(config.language))
    return 0


def run(config: Preparation, folder: str) -> float | None:
    """Prepares; returns the tokens a second of this call, or None where all had been tokenised before."""
    start, tokens = time.perf_counter(), 0

    def report(state: Progress | str) -> None:
        nonlocal start, tokens
        if isinstance(state, Progress):
            if not state.tokens:
                start = time.perf_counter()  # the vocabulary is made
            tokens = state.tokens
        bar.report(state)

    with filling(folder, config), PreparationProgress() as bar:
        prepare(config, folder, report)
    return tokens / (time.perf_counter() - start) if tokens else None


class PreparationProgress:
    """A live bar on a terminal; in a pipe, a plain line now and then."""

    def __init__(self):
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, rate="")
        self._start = self._spoken = time.perf_counter()

    def __enter__(self) -> "PreparationProgress":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def report(self, state: Progress | str) -> None:
        """Shows what is being done, or how far the tokenising is."""
        now = time.perf_counter()
        if isinstance(state, str):
            self._bar.update(self._task, description=state, total=None, rate="")
            if not console.is_terminal:
                say(state)
            return
        if not state.tokens:
            self._start = self._spoken = now
        rate = f"{state.tokens / max(now - self._start, 1e-9):,.0f} tokens a second"
        self._bar.update(self._task, completed=state.shards, total=state.of, rate=rate if state.tokens else "")
        if not console.is_terminal and now - self._spoken > SECONDS_BETWEEN_LINES:
            self._spoken = now
            say(f"part {state.shards}/{state.of}  {rate}")


def save_report(folder: str, tokens_per_second: float | None, *, in_sentences: bool) -> None:
    """Writes report.json and document_lengths.png.

    Args:
      folder: that is prepared.
      tokens_per_second: of the preparation.
      in_sentences: whether documents were cut into sentences, as for BERT.
    """
    corpus, tokenizer = os.path.join(folder, "corpus"), load_tokenizer(os.path.join(folder, "tokenizer"))
    figures = corpus_figures(corpus, tokenizer)
    draw_document_lengths(document_histogram(corpus), os.path.join(folder, "document_lengths.png"))
    report = dataclasses.asdict(figures) | {
        "findings": [finding._asdict() for finding in corpus_findings(figures, in_sentences=in_sentences)],
        "padding_share": measure_padding(corpus, tokenizer),
        "preparation_tokens_per_second": tokens_per_second,
        "reading_tokens_per_second": measure_reading(corpus, tokenizer, SECONDS_OF_READING),
        "cores": os.cpu_count(),
        "command": typed_command(),
    }
    write_atomically(os.path.join(folder, "report.json"), json.dumps(report, indent=2) + "\n")


def show_report(folder: str, *, in_sentences: bool) -> None:
    """Prints what report.json holds, what may go wrong with it, and what to type next."""
    with open(os.path.join(folder, "report.json"), encoding="utf-8") as file:
        report = json.load(file)
    figures = CorpusFigures(**{field.name: report[field.name] for field in dataclasses.fields(CorpusFigures)})
    print_table(f"corpus in {folder}", ("", "found"), report_rows(figures, report))
    for finding in report["findings"]:
        say(f"note: {Finding(**finding)}")
    say(f"lengths of the documents: {folder}/document_lengths.png   all figures: {folder}/report.json")
    preset = "" if in_sentences else "gpt-mini "
    say(f"next: python -m experiments.pretrain {preset}--data={shlex.quote(f'arrayrecord:{folder}')}")


def report_rows(figures: CorpusFigures, report: dict) -> list[tuple[str, str]]:
    """The lines of the table."""

    def rate(value):
        return "not measured" if value is None else f"{value:,.0f}"

    def lengths(quantiles):
        return " / ".join(f"{quantiles[name]:,}" for name in ("0.05", "0.5", "0.95", "1"))

    rows = [
        ("documents", f"{figures.documents:,}"),
        ("  held out", f"{figures.held_out_documents:,}"),
        ("sentences", f"{figures.sentences:,}"),
        ("tokens", f"{figures.tokens:,}"),
        ("copies of documents, left out", f"{figures.exact_duplicates:,}"),
        ("near duplicates, still there", f"{figures.near_duplicates:,}"),
        ("repeated sentences", f"{figures.repeated_sentence_share:.2%}"),
        ("unknown pieces", f"{figures.unknown_share:.3%}"),
        ("vocabulary that occurs", f"{figures.used_vocabulary:,} of {figures.vocabulary:,}"),
        ("tokens in a sentence (5 %, half, 95 %, longest)", lengths(figures.sentence_lengths)),
        ("tokens in a document (5 %, half, 95 %, longest)", lengths(figures.document_lengths)),
    ]
    rows += [
        (f"padding at {length} tokens, packed", f"{shares['unpacked']:.1%}, {shares['packed']:.1%}")
        for length, shares in report["padding_share"].items()
    ]
    return [
        *rows,
        ("tokens a second, prepared", rate(report["preparation_tokens_per_second"])),
        ("tokens a second, read by one process", rate(report["reading_tokens_per_second"])),
    ]


if __name__ == "__main__":
    run_command(main)
