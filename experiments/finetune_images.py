"""What `experiments.finetune --task=image_classification` does: a pretrained ViT learns other classes.

It is training as in `experiments.pretrain`, from the sizes and the images of what --init names, by the recipe of the
paper.
"""

import dataclasses
from collections.abc import Sequence

from core_jax.config import require
from experiments import pretrain
from experiments.console import parse_flags, value_of
from vit_jax.presets import FINETUNING, VitPretraining
from vit_jax.starting_weights import architecture_of

TASK = "image_classification"
DESCRIPTION = "Fine-tunes a pretrained ViT to tell other classes of images apart."


def main(arguments: list[str]) -> int:
    """Trains, scores and reports; returns the exit code."""
    if "--help" not in arguments and "-h" not in arguments:
        needed = {"--init": "hf:DIR, npz:FILE, timm:FILE or a work folder", "--data": "images:DIR or another source"}
        for flag, expected in needed.items():
            require(bool(value_of(flag, arguments)), f"{flag}=: expected {expected}")
    config = parse_flags(VitPretraining, without_task(arguments), DESCRIPTION, defaults(arguments))
    return pretrain.run(config, config.training.workdir or f"runs/{TASK}")


def defaults(arguments: Sequence[str]) -> VitPretraining:
    """The configuration that flags change: the recipe, with the sizes of what --init names.

    The layer with tanh before the classifier goes: the classifier, zero at first, stands on what the encoder gives.
    """
    init = value_of("--init", arguments)
    if not init:
        return FINETUNING
    model, normalization = architecture_of(init)
    model = dataclasses.replace(
        model, representation=False, initializer="xavier", dtype="auto", dropout=0.0, attention_dropout=0.0
    )
    images = dataclasses.replace(FINETUNING.images, normalization=normalization)
    return dataclasses.replace(FINETUNING, init=init, model=model, images=images)


def without_task(arguments: Sequence[str]) -> list[str]:
    """The arguments but for --task and its value."""
    kept, skip = [], False
    for argument in arguments:
        if not skip and argument.partition("=")[0] != "--task":
            kept.append(argument)
        skip = argument == "--task"
    return kept
