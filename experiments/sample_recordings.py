"""Lists real recordings to learn from:   python -m experiments.sample_recordings OUTPUT [--recordings=dialogues-nl]

They are those of Debian packages, which must be installed, and split so that no level or caption is in two parts.
"""

import dataclasses
import pathlib
import shlex
from typing import Annotated

import soundfile
import tyro

from core_jax.config import require
from core_jax.parallel_samples import SPLITS
from core_jax.spoken_samples import spoken_captions, spoken_dialogues
from experiments.console import parse_flags, print_table, run_command, say
from experiments.sample_tasks import is_written, write

KINDS = {"dialogues": spoken_dialogues, "captions": spoken_captions}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleRecordings:
    """Writes the paths of recordings and what is said in them, split into train, validation and test."""

    output: Annotated[str, tyro.conf.Positional]  # folder to write to
    # dialogues of a game, by two voices (dialogues-nl: packages fillets-ng-data and fillets-ng-data-nl), or captions of
    # pictures (captions-fr, captions-es, captions-ru: package tuxpaint-stamps-default); both are GPL-2
    recordings: str = "dialogues-nl"


def main(arguments: list[str]) -> int:
    """Writes the lists that are not there, and says what to type next; returns the exit code."""
    flags = parse_flags(SampleRecordings, arguments, "Lists real recordings to learn from.")
    kind, _, language = flags.recordings.partition("-")
    require(
        kind in KINDS and bool(language),
        f"--recordings={flags.recordings}: expected dialogues-LANGUAGE or captions-LANGUAGE, such as captions-fr",
    )
    splits = KINDS[kind](language)
    folder = pathlib.Path(flags.output).expanduser()
    if not is_written(folder, splits):
        write(folder, splits)
    minutes = [sum(soundfile.info(one["audio"]).duration for one in records) / 60 for records in splits.values()]
    rows = [
        ("recordings", *(f"{len(records):,}" for records in splits.values())),
        ("minutes", *(f"{length:.1f}" for length in minutes)),
        ("words", *(f"{sum(len(one['text'].split()) for one in records):,}" for records in splits.values())),
    ]
    print_table(str(folder), ("", *SPLITS), rows)
    names = zip(("data", "validation_data"), ("train", "validation"), strict=True)
    places = " ".join(f"--{flag}={shlex.quote(f'jsonl:{folder / split}.jsonl')}" for flag, split in names)
    say(f"next: python -m experiments.finetune --task=transcription --init=hf:DIR {places}")
    return 0


if __name__ == "__main__":
    run_command(main)
