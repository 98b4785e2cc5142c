"""What `experiments.predict` does with a translator: JSON with each text and its translation, a line for each."""

import dataclasses
import itertools
import json
from collections.abc import Sequence

import jax

from bert_jax.parallel_texts import with_vocabulary
from bert_jax.translation import Translator, initial_params
from bert_jax.translator import bucket_length
from core_jax.config import require
from core_jax.sharding import check_mesh, parse_mesh
from experiments import planning
from experiments.console import report
from experiments.finetune_translation import translate
from experiments.text_lines import given_lines
from experiments.trained_translators import ROWS, batch_translator, open_trained, open_vocabulary, read_config_of

AT_ONCE = 512  # lines that are read before they are translated, those of similar lengths together


def translate_lines(
    init: str, texts: Sequence[str], place: str, mesh: str, beams: int, length_penalty: float | None
) -> int:
    """Translates and prints; returns the exit code.

    Args:
      init: work folder of a run, or hf:DIR.
      texts: to translate; where there are none, they are read from a place.
      place: a file with a text a line; - is standard input.
      mesh: devices by axis.
      beams: translations that are followed at once; 0: as many as the run was scored with.
      length_penalty: power of the length that they are divided by; None: as the run was scored with.
    Raises:
      UserError: there are no texts, or there is no trained translator.
    """
    example = f'type: python -m experiments.predict --init={init} "A sentence."'
    require(bool(texts or place), f"no text given; {example}")
    devices = parse_mesh(mesh)
    trained = open_trained(init, devices)
    config, tokenizer = trained.config, trained.tokenizer
    penalty = config.length_penalty if length_penalty is None else length_penalty
    config = dataclasses.replace(config, beams=beams or config.beams, length_penalty=penalty)
    translator = None  # made for the first lines, and compiled once for all
    lines = (text for _, text in given_lines(texts, place) if texts or text.strip())
    for part in _parts(lines):
        require(all(text.strip() for text in part), f"a text is empty; {example}")
        translator = translator or batch_translator(trained.model, trained.params, config, devices, len(part))
        found = translate(translator, tokenizer, part, config.pairs.sequence_length)
        for text, translation in zip(part, found, strict=True):
            if jax.process_index() == 0:
                report(json.dumps({"text": text, "translation": translation}, ensure_ascii=False))
    return 0


def plan(init: str, slice_name: str, mesh: str, beams: int) -> int:
    """Compiles a translator for a slice, at its largest bucket of lengths, and reports; returns the exit code.

    Args:
      init: work folder of a run, or hf:DIR.
      slice_name: such as v5e-4.
      mesh: its devices by axis.
      beams: as for `translate_lines`.
    Raises:
      UserError: there is no translator, or no such slice.
    """
    planner, config = planning.planner_for(slice_name, mesh), read_config_of(init)
    model = dataclasses.replace(with_vocabulary(config.model, open_vocabulary(init)), scan_layers=False)
    shapes = jax.eval_shape(initial_params(Translator(model)), jax.random.key(0))
    check_mesh(planner.mesh, shapes, planner.mesh.size)
    config = dataclasses.replace(config, beams=beams or config.beams)
    with jax.set_mesh(planner.mesh):  # the type of computation is that of its devices
        translator = batch_translator(model, shapes, config, planner.mesh, ROWS)
        translator.plan(planner, bucket_length(config.pairs.sequence_length, model.maximum_positions))
    return planning.show_calls(planner)


def _parts(lines):
    lines = iter(lines)
    while part := list(itertools.islice(lines, AT_ONCE)):
        yield part
