"""Runs of encoders of sound: their recordings, what they tell or spell, and their parameters."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import PyTree

from bert_jax.letters import letters_of, spell
from core_jax.atomic_files import write_atomically
from core_jax.config import require
from core_jax.distributed import first_decides
from core_jax.errors import UserError
from core_jax.sharding import check_mesh
from core_jax.trained import trained_params
from core_jax.workdir import read_config, read_run_fields
from experiments.speech.hearing_config import Hearing, SoundClassification, Spelling
from vit_jax.audio_clips import Clip, ClipExamples, check_clips, fitting, list_clips, read_clips
from vit_jax.audio_encoder import STRIDE
from vit_jax.audio_labels import AudioForLabels, initial_audio_params
from vit_jax.ctc import needed_positions
from vit_jax.log_mel import FRAMES_A_SECOND

OUTPUTS = "outputs.json"  # of a work folder: the classes or letters, in the order of the outputs


@dataclasses.dataclass(frozen=True)
class Recordings:
    """The data of a run."""

    outputs: tuple[str, ...]  # names of the classes, or letters
    train: ClipExamples
    held_out: ClipExamples
    scored: Sequence[Clip]  # all that are held out, however long they are
    left_out: int  # recordings that are not trained on


@dataclasses.dataclass(frozen=True)
class TrainedHearing:
    """A trained encoder of sound, as its work folder holds it."""

    config: SoundClassification | Spelling
    model: AudioForLabels
    outputs: tuple[str, ...]
    params: PyTree


def is_of_hearing(init: str) -> bool:
    """Whether --init names the work folder of such a run; other programs' models have a colon.

    Raises:
      UserError: it is a folder of no run.
    """
    return ":" not in init and bool({"sounds", "letters"}.intersection(read_run_fields(init)))


def read_hearing(workdir: str) -> SoundClassification | Spelling:
    """The configuration of a run."""
    return read_config(workdir, Spelling if "letters" in read_run_fields(workdir) else SoundClassification)


def label_column(config: Hearing) -> str:
    """The column of what is learned."""
    if isinstance(config, Spelling):
        return config.letters.text_column
    assert isinstance(config, SoundClassification)
    return config.sounds.label_column


def build_model(config: Hearing, outputs: int) -> AudioForLabels:
    """The model of so many classes or letters; letters have a blank before them."""
    if isinstance(config, Spelling):
        return AudioForLabels(config.encoder, "position", outputs + 1)
    return AudioForLabels(config.encoder, "recording", outputs)


def identity(outputs: Sequence[str]) -> dict[str, str]:
    """What a checkpoint belongs to beside its shapes: the classes or letters, in their order."""
    return {"outputs": hashlib.sha256("\n".join(outputs).encode()).hexdigest()}


def open_hearing(workdir: str, mesh: Mesh, report: Callable[[str], None]) -> TrainedHearing:
    """Reads what a run has trained.

    Raises:
      UserError: the folder holds no such run, or no checkpoint that fits.
    """
    config, path = read_hearing(workdir), epath.Path(workdir) / OUTPUTS
    try:
        outputs = tuple(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); expected the names that a run keeps there") from error
    model = build_model(config, len(outputs))
    recipe = initial_audio_params(model), config.optimizer, config.training
    params = trained_params(workdir, *recipe, mesh, identity=identity(outputs), report=report)
    check_mesh(mesh, params, mesh.size)
    return TrainedHearing(config, model, outputs, params)


def open_recordings(config: Hearing, workdir: str) -> Recordings:
    """The recordings of a run; the names of its outputs are kept in the work folder.

    Raises:
      UserError: recordings cannot be read, or have too few classes, or classes that are not trained on.
    """
    train, held_out = read_clips(config.clips, label_column(config))
    spells = isinstance(config, Spelling)
    outputs = letters_of(clip.label for clip in train) if spells else classes_of(train)
    text = json.dumps(list(outputs), indent=0, ensure_ascii=False) + "\n"
    first_decides(lambda: write_atomically(epath.Path(workdir) / OUTPUTS, text))
    examples = spelling_examples if spells else class_examples
    to_train = examples(config, outputs, train, "data")
    to_train = dataclasses.replace(to_train, masking=config.masking, seed=config.training.seed, crop=not spells)
    to_score = examples(config, outputs, held_out, "validation_data")
    return Recordings(outputs, to_train, to_score, held_out, len(train) - len(to_train))


def recordings_to_score(trained: TrainedHearing, data: str) -> Recordings:
    """Recordings for a trained encoder.

    Args:
      trained: whose outputs they have.
      data: where they come from; empty: those that the run held out.
    Raises:
      UserError: they cannot be read, or have other classes.
    """
    config, column = trained.config, label_column(trained.config)
    if data:
        check_clips(dataclasses.replace(config.clips, data=data, validation_data=""), column)
        clips = list_clips(data, config.clips.audio_column, column)
    else:
        _, clips = read_clips(config.clips, column)
    examples = spelling_examples if isinstance(config, Spelling) else class_examples
    scored = examples(config, trained.outputs, clips, "data")
    return Recordings(trained.outputs, scored, scored, clips, 0)


def classes_of(clips: Sequence[Clip]) -> tuple[str, ...]:
    """The classes of recordings, sorted.

    Raises:
      UserError: there is only one.
    """
    found = tuple(sorted({clip.label for clip in clips}))
    require(len(found) > 1, f"all {len(clips)} recordings have the label {found[0]!r}; expected two classes or more")
    return found


def class_examples(config: Any, classes: tuple[str, ...], clips: Sequence[Clip], name: str) -> ClipExamples:
    """Recordings with their classes; of those that are longer than a window a part is heard.

    Raises:
      UserError: a class is not known.
    """
    unknown = sorted({clip.label for clip in clips} - set(classes))
    require(
        not unknown, f"--{name} has labels that are not trained on: {unknown[:5]}; expected {', '.join(classes[:10])}"
    )
    targets = [{"labels": np.int32(classes.index(clip.label)), "weights": {"classes": np.float32(1)}} for clip in clips]
    return ClipExamples(clips, targets, config.encoder.frames, config.encoder.mel_bands)


def spelling_examples(config: Any, letters: tuple[str, ...], clips: Sequence[Clip], name: str) -> ClipExamples:
    """Recordings with their letters, but for those that are longer than a window, or spoken too fast to be spelt.

    Raises:
      UserError: none is left.
    """
    encoder, longest = config.encoder, config.letters.letters
    short = fitting(clips, encoder.frames / FRAMES_A_SECOND, name)
    pairs = [(clip, spell(clip.label, letters)) for clip in short]
    pairs = [
        (clip, said)
        for clip, said in pairs
        if 0 < len(said) <= longest and needed_positions(said) <= int(clip.seconds * FRAMES_A_SECOND) // STRIDE
    ]
    require(
        bool(pairs),
        f"--{name}: no transcript has 1 to --letters={longest} letters, and no more than its recording has positions "
        f"({FRAMES_A_SECOND // STRIDE} a second)",
    )
    targets = [_spelt(said, longest) for _, said in pairs]
    return ClipExamples([clip for clip, _ in pairs], targets, encoder.frames, encoder.mel_bands)


def _spelt(said, longest):
    labels, weights = np.zeros(longest, np.int32), np.zeros(longest, np.float32)
    labels[: len(said)], weights[: len(said)] = said, 1
    return {"labels": labels, "weights": {"letters": weights}}
