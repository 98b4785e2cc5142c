"""Fills masks, or labels texts:   python -m experiments.predict --init=WORKDIR "the capital of [MASK] is paris."

A pretrained model fills every [MASK]. A fine-tuned one labels texts from arguments, a file or standard input, and gives
JSON, a line for each.
"""

import dataclasses
import sys
from typing import Annotated

import tyro

from bert_jax.starting_points import is_fine_tuned
from core_jax.config import require
from experiments import fill_masks, label_texts
from experiments.console import parse_flags, run_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """Fills every [MASK] of each text with its most probable pieces, or labels each text."""

    # with a pretrained model, each with one or more [MASK]; with a fine-tuned one any text, or a JSON object of columns
    texts: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    init: str  # work folder of a run
    top: int = 5  # pieces shown for each mask
    input: str = ""  # of a fine-tuned model: a file with a text or JSON object a line; - is standard input
    mesh: str = "data:-1"  # of a fine-tuned model: devices by axis, as for pretraining

    def __post_init__(self):
        require(self.top > 0, f"--top={self.top}: expected 1 or more")
        require(not (self.texts and self.input), f"texts and --input={self.input} are given; expected one of them")


def main(arguments: list[str]) -> int:
    """Predicts and prints; returns the exit code."""
    flags = parse_flags(
        Prediction, arguments, "Fills masks with a pretrained BERT, or labels texts with a fine-tuned one."
    )
    if is_fine_tuned(flags.init):
        place = flags.input or ("" if flags.texts or sys.stdin.isatty() else "-")
        return label_texts.label(flags.init, flags.texts, place, flags.mesh)
    require(bool(flags.texts), 'no text given; type one, such as "the capital of france is [MASK]."')
    fill_masks.fill(flags.init, flags.texts, flags.top)
    return 0


if __name__ == "__main__":
    run_command(main)
