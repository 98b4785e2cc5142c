"""Scores of finished runs of any kind as one Markdown table:   python -m experiments.tabulate WORKDIR...

Runs that differ in nothing but their seed are one row, with mean ± standard deviation.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from core_jax.config import require
from core_jax.workdir import read_run_fields, write_atomically
from experiments import results
from experiments.console import parse_flags, run_command, say
from experiments.tuning_results import mean_text

# What is shown of those that a run has, unless --scores says otherwise; a baseline follows what it is held against.
SCORES = (
    *("mlm_accuracy", "nsp_accuracy", "bits_per_byte", "ngram_bits_per_byte", "accuracy", "majority_accuracy"),
    *("top5_accuracy", "precision", "recall", "f1", "micro_f1", "matthews", "pearson", "spearman", "exact_match"),
    *("word_error_rate", "before_word_error_rate", "character_error_rate", "before_character_error_rate"),
    *("bleu", "copy_bleu", "nearest_bleu", "chrf", "copy_chrf", "nearest_chrf"),
)
ALIKE = ("seed", "workdir")  # in these alone runs of one row differ


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tabulation:
    """Writes the scores of finished runs as one table."""

    workdirs: Annotated[list[str], tyro.conf.Positional]  # of the runs
    scores: str = ""  # which, with commas between, such as accuracy,f1; by default the usual ones
    subset: str = "test"  # whose scores are shown; of a run without it those of what it held out
    output: str = ""  # Markdown file for the table


@dataclasses.dataclass(frozen=True)
class Row:
    """Runs that differ in their seed alone."""

    workdirs: list[str]
    summaries: list[dict[str, Any]]

    def title(self) -> str:
        """The folder of a single run, or what several have in common."""
        return os.path.commonpath(self.workdirs)

    def scores(self, subset: str) -> list[dict[str, float]]:
        """The numbers of each run, those of a set of examples before those of what it held out."""
        return [
            {
                name: value
                for name, value in (found | found.get("others", {}).get(subset, {})).items()
                if isinstance(value, int | float)
            }
            for found in self.summaries
        ]


def main(arguments: list[str]) -> int:
    """Prints and writes the table; returns the exit code."""
    flags = parse_flags(Tabulation, arguments, "Scores of finished runs as one Markdown table.")
    require(bool(flags.workdirs), "no run is named; type their work folders, such as runs/bert-tiny")
    text = table(read_rows(flags.workdirs), [name for name in flags.scores.split(",") if name], flags.subset)
    say(text)
    if flags.output:
        write_atomically(flags.output, text)
    return 0


def read_rows(workdirs: Sequence[str]) -> list[Row]:
    """The runs, those together that differ in their seed alone.

    Raises:
      UserError: a folder holds no run, or one that has not ended.
    """
    rows: dict[str, Row] = {}
    for workdir in workdirs:
        fields, summary = read_run_fields(workdir), results.load(workdir)
        require(
            summary is not None, f"{workdir} has no summary.json yet: let its run end, by the command it began with"
        )
        row = rows.setdefault(json.dumps(_without(fields, ALIKE), sort_keys=True), Row([], []))
        row.workdirs.append(os.path.normpath(workdir))
        row.summaries.append(summary or {})
    return list(rows.values())


def table(rows: Sequence[Row], wanted: Sequence[str], subset: str) -> str:
    """The scores of runs, as Markdown.

    Args:
      rows: of the table.
      wanted: names of scores; where there are none, of the usual ones those that any run has.
      subset: of examples, as `Tabulation.subset`.
    Raises:
      UserError: no run has such a score.
    """
    found = [row.scores(subset) for row in rows]
    there = {name for runs in found for scores in runs for name in scores}
    unknown = [name for name in wanted if name not in there]
    require(not unknown, f"--scores: no run has {', '.join(unknown)}; there are {', '.join(sorted(there))}")
    names = wanted or [name for name in SCORES if name in there]
    lines = []
    for row, runs in zip(rows, found, strict=True):
        cells = ([scores[name] for scores in runs if name in scores] for name in names)
        texts = (mean_text(name, values) if values else "" for name, values in zip(names, cells, strict=True))
        lines.append((row.title(), str(len(runs)), *texts))
    return results.markdown_table(("run", "seeds", *(name.replace("_", " ") for name in names)), lines)


def _without(fields, names):
    """Nested fields but for those of some names."""
    if not isinstance(fields, dict):
        return fields
    return {name: _without(value, names) for name, value in fields.items() if name not in names}


if __name__ == "__main__":
    run_command(main)
