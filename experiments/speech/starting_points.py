"""What speech commands start from: a Whisper of another program, or the work folder of a run."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from bert_jax.transcript_vocabulary import FILE
from core_jax.config import require
from core_jax.sharding import by_path, parse_mesh, place_like
from core_jax.trained import trained_params
from core_jax.workdir import read_config, read_run_fields
from experiments.speech.config import POSITIONS_A_SECOND, Transcribing, WhisperSizes
from experiments.speech.weights import Whisper, hears, initial_params, join, read_ct2, read_hf
from vit_jax.log_mel import FRAMES_A_SECOND

READERS = {"hf": read_hf, "ct2": read_ct2}
TOKENIZER = "tokenizer"  # folder of a work folder that has it


def names_whisper(place: str) -> bool:
    """Whether a place is hf:DIR or ct2:DIR of a Whisper, or the work folder of one.

    Raises:
      UserError: it is a folder of no run.
    """
    return hears(place) if ":" in place else "transcripts" in read_run_fields(place)


def vocabulary_folder(init: str) -> pathlib.Path:
    """Where the vocabulary of what --init names lies."""
    kind, _, place = init.rpartition(":")
    return pathlib.Path(place).expanduser() / ("" if kind else TOKENIZER)


def read_whisper(init: str, mesh: Mesh, report: Callable[[str], None]) -> Whisper:
    """Reads what --init names: hf:DIR, ct2:DIR or a work folder.

    Args:
      init: what is named.
      mesh: where the parameters of a work folder go; those of other programs stay on the host.
      report: is told about checkpoints that cannot be used.
    Raises:
      UserError: there is no such model, it is damaged, or another one.
    """
    kind, _, place = init.partition(":")
    if kind in READERS and place:
        return READERS[kind](pathlib.Path(place).expanduser())
    expected = "expected hf:DIR (transformers), ct2:DIR (CTranslate2) or the work folder of --task=transcription"
    require(bool(init) and not place, f"--init={init}: {expected}")
    config = read_config(init, Transcribing)
    start = initial_params(join(config.encoder, config.decoder))
    marks = {"identity": identity(vocabulary_folder(init)), "report": report}
    params = trained_params(init, start, config.optimizer, config.training, mesh, **marks)
    return Whisper(config.encoder, config.decoder, params, config.sizes.settings)


def read_sizes(init: str, seconds: float) -> WhisperSizes:
    """The sizes of what --init names, with a window of so many seconds; 0: its own.

    Raises:
      UserError: as for `read_whisper`, or the window is longer than what it hears.
    """
    if ":" in init:
        whisper = read_whisper(init, parse_mesh("data:-1"), print)
        found = WhisperSizes(encoder=whisper.encoder, decoder=whisper.decoder, settings=whisper.settings)
    else:
        found = read_config(init, Transcribing).sizes
    window, positions = found.encoder.frames / FRAMES_A_SECOND, round(seconds * POSITIONS_A_SECOND)
    require(seconds <= window, f"--window_seconds={seconds:g}: {init} hears {window:g} seconds; use as many or fewer")
    if not positions:
        return found
    return dataclasses.replace(found, encoder=dataclasses.replace(found.encoder, maximum_positions=positions))


def load_init(init: str, fresh: PyTree, mesh: Mesh, report: Callable[[str], None]) -> PyTree:
    """The parameters of what --init names, on a mesh.

    Where the window is shorter than there, the rows of the position table for later seconds are left out.

    Args:
      init: what is named.
      fresh: parameters of the model, for their shapes.
      mesh: where they go.
      report: is told about checkpoints that cannot be used.
    """
    found = by_path(read_whisper(init, mesh, report).params)
    table = "encoder/positions"
    found[table] = jax.device_get(found[table])[: len(by_path(fresh)[table])]
    return place_like(fresh, found, mesh)


def identity(folder: pathlib.Path) -> dict[str, str]:
    """What a checkpoint belongs to beside its shapes: the vocabulary."""
    return {"tokenizer": hashlib.sha256((folder / FILE).read_bytes()).hexdigest()}
