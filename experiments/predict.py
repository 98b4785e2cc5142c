"""Fills masks, labels or translates texts, names pictures:   python -m experiments.predict --init=WORKDIR "a [MASK]."

A pretrained BERT fills every [MASK]. A fine-tuned one labels texts from arguments, a file or standard input, and a ViT
pictures, and a translator (also hf:DIR of a Marian or T5) translates; these give JSON, a line for each. With a Whisper
it does what `experiments.transcribe` does; an encoder of sound names the class of recordings, or spells what is said.
"""

import dataclasses
import sys
from typing import Annotated

import tyro

from bert_jax.foreign_label_models import is_label_model
from bert_jax.starting_points import is_fine_tuned, is_gpt, names_translator
from core_jax.config import require
from experiments import classify_images, fill_masks, hear_recordings, label_texts, transcribe, translate_texts
from experiments.console import parse_flags, run_command, value_of
from experiments.families import is_of_images
from experiments.speech.hearing_runs import is_of_hearing
from experiments.speech.starting_points import names_whisper


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """Fills every [MASK] of each text with its most probable pieces, labels or translates each, or names pictures."""

    # with a pretrained BERT, each with one or more [MASK]; with a fine-tuned one any text, or a JSON object of columns;
    # with a ViT paths of pictures, with an encoder of sound paths of recordings
    texts: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    # work folder of a run, or hf:DIR of a translator (a Marian or T5), of a BERT that labels texts or of a ViT with its
    # classifier, which may also be npz:FILE or timm:FILE
    init: str
    top: int = 5  # pieces shown for each mask, classes for each picture or recording
    attention: str = ""  # of a ViT or of sound: folder for drawings of where it looks or listens
    beams: int = 0  # of a translator: translations followed at once; 1: greedy; 0: as many as it was scored with
    # of a translator: power of the length that the log probability of a translation is divided by
    length_penalty: float | None = None
    # of a fine-tuned model: a file with a text or JSON object a line; - is standard input. Where the first line is
    # plain text, a blank line is an empty text; among JSON objects, and for a translator, it counts for nothing
    input: str = ""
    # of a translator: compile what would be computed for a TPU slice that is not here, such as v5e-4, for full batches
    # of its longest sentences; report, do not translate
    plan: str = ""
    mesh: str = "data:-1"  # of a fine-tuned model: devices by axis, as for pretraining

    def __post_init__(self):
        require(self.top > 0, f"--top={self.top}: expected 1 or more")
        require(self.beams >= 0, f"--beams={self.beams}: expected 1 or more, or 0 (as it was scored)")
        require(not (self.texts and self.input), f"texts and --input={self.input} are given; expected one of them")


def main(arguments: list[str]) -> int:
    """Predicts and prints; returns the exit code."""
    if (init := value_of("--init", arguments)) and names_whisper(init):
        return transcribe.main(arguments)
    flags = parse_flags(
        Prediction,
        arguments,
        "Fills masks with a pretrained BERT, labels texts with a fine-tuned one, or names pictures with a ViT.",
    )
    translates = names_translator(flags.init)
    if flags.plan:
        require(translates, f"--plan={flags.plan}: {flags.init} is no translator, of which alone predict knows plans")
        return translate_texts.plan(flags.init, flags.plan, flags.mesh, flags.beams)
    labels = not translates and is_label_model(flags.init)
    if not translates and not labels and is_of_images(flags.init):
        require(not flags.input, f"--input={flags.input} is for text: type the paths of pictures")
        classify_images.classify(flags.init, flags.texts, flags.top, flags.attention)
        return 0
    if not translates and not labels and is_of_hearing(flags.init):
        require(not flags.input, f"--input={flags.input} is for text: type the paths of recordings")
        hear_recordings.hear(flags.init, flags.texts, flags.top, flags.attention)
        return 0
    require(not flags.attention, f"--attention={flags.attention}: {flags.init} is of text")
    place = flags.input or ("" if flags.texts or sys.stdin.isatty() else "-")
    if translates:
        beams, penalty = flags.beams, flags.length_penalty
        return translate_texts.translate_lines(flags.init, flags.texts, place, flags.mesh, beams, penalty)
    if labels or is_fine_tuned(flags.init):
        return label_texts.label(flags.init, flags.texts, place, flags.mesh)
    require(
        not is_gpt(flags.init),
        f"{flags.init} is a GPT, which fills no masks; type: python -m experiments.generate --init={flags.init} TEXT",
    )
    require(bool(flags.texts), 'no text given; type one, such as "the capital of france is [MASK]."')
    fill_masks.fill(flags.init, flags.texts, flags.top)
    return 0


if __name__ == "__main__":
    run_command(main)
