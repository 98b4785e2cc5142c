"""What `experiments.predict` does with a translator: JSON with each text and its translation, a line for each."""

import dataclasses
import itertools
import json
from collections.abc import Sequence

import jax

from core_jax.config import require
from core_jax.sharding import parse_mesh
from experiments.console import report
from experiments.finetune_translation import translate
from experiments.label_texts import given_lines
from experiments.translation_training import open_trained

AT_ONCE = 512  # lines that are read before they are translated, those of similar lengths together


def translate_lines(
    workdir: str, texts: Sequence[str], place: str, mesh: str, beams: int, length_penalty: float | None
) -> int:
    """Translates and prints; returns the exit code.

    Args:
      workdir: of the run.
      texts: to translate; where there are none, they are read from a place.
      place: a file with a text a line; - is standard input.
      mesh: devices by axis.
      beams: translations that are followed at once; 0: as many as the run was scored with.
      length_penalty: power of the length that they are divided by; None: as the run was scored with.
    Raises:
      UserError: there are no texts, or the run has not finished an epoch.
    """
    example = f'type: python -m experiments.predict --init={workdir} "A sentence."'
    require(bool(texts or place), f"no text given; {example}")
    devices = parse_mesh(mesh)
    config, model, tokenizer, params = open_trained(workdir, devices)
    penalty = config.length_penalty if length_penalty is None else length_penalty
    config = dataclasses.replace(config, beams=beams or config.beams, length_penalty=penalty)
    with given_lines(texts, place) as lines:
        for part in _parts(lines):
            require(all(text.strip() for text in part), f"a text is empty; {example}")
            found = translate(model, params, tokenizer, part, config, devices)
            for text, translation in zip(part, found, strict=True):
                if jax.process_index() == 0:
                    report(json.dumps({"text": text, "translation": translation}, ensure_ascii=False))
    return 0


def _parts(lines):
    lines = iter(lines)
    while part := list(itertools.islice(lines, AT_ONCE)):
        yield part
