"""Writes real sentence pairs to learn translation from:   python -m experiments.sample_pairs OUTPUT [--pairs=verses]

They are read from Debian packages, which must be installed, and split so that no chapter or level is in two parts.
"""

import dataclasses
import pathlib
import shlex
from typing import Annotated

import tyro

from core_jax.parallel_samples import SPLITS, dialogues, verses
from experiments.console import parse_flags, print_table, run_command, say
from experiments.sample_tasks import is_written, write


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplePairs:
    """Writes sentence pairs, split into train, validation and test, as JSON lines."""

    output: Annotated[str, tyro.conf.Positional]  # folder to write to
    # English-Spanish verses (packages sword-text-web, sword-text-sparv and libsword-utils), or the language, such as de
    # or nl, into which the dialogues of a game are translated (package fillets-ng-data, GPL-2)
    pairs: str = "verses"


def main(arguments: list[str]) -> int:
    """Writes the pairs that are not there, and says what to type next; returns the exit code."""
    flags = parse_flags(SamplePairs, arguments, "Writes real sentence pairs to learn translation from.")
    splits = verses() if flags.pairs == "verses" else dialogues(flags.pairs)
    folder = pathlib.Path(flags.output).expanduser()
    if not is_written(folder, splits):
        write(folder, splits)
    words = [
        [sum(len(pair[side].split()) for pair in pairs) for pairs in splits.values()] for side in ("source", "target")
    ]
    rows = [("pairs", *(f"{len(pairs):,}" for pairs in splits.values()))]
    rows += [
        (f"words of the {side}s", *map("{:,}".format, row))
        for side, row in zip(("source", "target"), words, strict=True)
    ]
    print_table(str(folder), ("", *SPLITS), rows)
    names = zip(("data", "validation_data", "test_data"), SPLITS, strict=True)
    places = " ".join(f"--{flag}={shlex.quote(f'jsonl:{folder / split}.jsonl')}" for flag, split in names)
    say(f"next: python -m experiments.finetune --task=translation {places}")
    return 0


if __name__ == "__main__":
    run_command(main)
