"""What `experiments.finetune` does with recordings: a Whisper learns to write, or an encoder of sound to name or spell.

It is training as in `experiments.pretrain`, from the sizes of what --init names.
"""

from typing import Any

from experiments import pretrain
from experiments.console import parse_flags, value_of
from experiments.finetune_images import without_task
from experiments.speech.config import TRANSCRIBING
from experiments.speech.hearing_config import CLASSIFYING, SPELLING

TASKS: dict[str, tuple[Any, str]] = {  # by --task: defaults, and what it does
    "transcription": (TRANSCRIBING, "Fine-tunes a pretrained Whisper on recordings and what is said in them."),
    "audio_classification": (CLASSIFYING, "Trains an encoder of sound to tell classes of recordings apart."),
    "ctc": (SPELLING, "Trains an encoder of sound to spell what is said in recordings, with CTC."),
}


def main(arguments: list[str]) -> int:
    """Trains, scores and reports; returns the exit code."""
    task = value_of("--task", arguments)
    defaults, description = TASKS[task]
    config = parse_flags(type(defaults), without_task(arguments), description, defaults)
    return pretrain.run(config, config.training.workdir or f"runs/{task}")
