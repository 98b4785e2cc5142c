"""Classes of recordings, and spelling with CTC, as families that `experiments.finetune` trains."""

import os
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from core_jax.class_scores import classification_scores
from core_jax.data import evaluation_batches
from core_jax.family import Evaluated, Evaluation, Report, Wording
from core_jax.metrics import means
from core_jax.train import Metrics, State
from experiments.speech import encoder_starts
from experiments.speech.hearing_config import Hearing, SoundClassification, Spelling
from experiments.speech.hearing_pictures import draw_hearing
from experiments.speech.hearing_runs import Recordings, build_model, identity, label_column, open_recordings
from experiments.speech.speller import Speller
from experiments.speech.word_errors import count_errors
from vit_jax import audio_tasks
from vit_jax.audio_clips import check_clips
from vit_jax.audio_labels import AudioForLabels, initial_audio_params
from vit_jax.family import as_examples, draw_classes
from vit_jax.pretraining import class_evaluation

EXPECTED = 32  # classes or letters, before there is data
DRAWN = 4  # recordings that are drawn


class HearingFamily:
    """What both have in common; the methods are those of `core_jax.family.Family`."""

    def adopt(self, config: Hearing, report: Report) -> Hearing:
        """The sizes of the encoder that --init names."""
        return encoder_starts.adopt(config, report)

    def check(self, config: Hearing, workdir: str) -> None:
        """Raises for mistakes in --init and in where the recordings come from."""
        del workdir
        encoder_starts.check_start(config.init)
        check_clips(config.clips, label_column(config))

    def model_ahead(self, config: Hearing) -> AudioForLabels:
        """The model of about as many outputs as there may be."""
        return build_model(config, EXPECTED)

    def units(self, config: Hearing) -> int:
        """A row is a window."""
        del config
        return 1

    def open_data(self, config: Hearing, workdir: str, report: Report) -> Recordings:
        """The recordings; the names of the outputs are kept in the work folder."""
        data = open_recordings(config, workdir)
        if data.left_out:
            report(f"{data.left_out:,} recordings are longer than a window, or too many letters: not trained on")
        return data

    def name_of_rows(self, config: Hearing) -> str:
        """What a batch holds."""
        del config
        return "recordings"

    def model_for(self, config: Hearing, data: Recordings) -> AudioForLabels:
        """The model for the outputs of the data."""
        return build_model(config, len(data.outputs))

    def identity(self, data: Recordings) -> dict[str, str]:
        """The outputs."""
        return identity(data.outputs)

    def load_init(
        self, config: Hearing, model: AudioForLabels, data: Recordings, fresh: PyTree, mesh: Mesh, report: Report
    ) -> PyTree:
        """The encoder that --init names, below a fresh classifier."""
        del model
        return encoder_starts.load(config, data.outputs, fresh, mesh, report)

    def findings(self, config: Hearing, data: Recordings, workdir: str) -> list[str]:
        """How often each recording is heard."""
        del workdir
        training = config.training
        epochs = training.steps * training.global_batch_size / len(data.train)
        return [f"{training.steps:,} steps of {training.global_batch_size:,} recordings are {epochs:,.1f} epochs"]

    def initial_params(self, model: AudioForLabels) -> Callable[[Key[Array, ""]], PyTree]:
        """key -> fresh parameters."""
        return initial_audio_params(model)

    def training_step(
        self, config: Hearing, model: AudioForLabels, optimizer: optax.GradientTransformation, state: State
    ) -> Callable[..., tuple[State, Metrics]]:
        """The jitted step."""
        smoothing = config.sounds.label_smoothing if isinstance(config, SoundClassification) else 0.0
        return audio_tasks.training_step(model, smoothing, optimizer, state, config.training.accumulation_steps)

    def model_flops(self, model: AudioForLabels, batch: PyTree) -> float:
        """Of full windows."""
        return float(audio_tasks.step_flops(model, batch))

    def describe(self, data: Recordings) -> str:
        """How many recordings and outputs."""
        minutes = sum(clip.seconds for clip in data.train.clips) / 60
        kind = f"{len(data.outputs):,} {self.name_of_outputs}"
        return f"{kind}; {len(data.train):,} recordings, {minutes:,.1f} minutes, {len(data.held_out):,} held out"

    def summary(self, data: Recordings) -> dict[str, Any]:
        """Sizes."""
        sizes = {"train_recordings": len(data.train), "held_out_recordings": len(data.held_out)}
        return {self.name_of_outputs: len(data.outputs), **sizes}

    name_of_outputs = "outputs"


class SoundFamily(HearingFamily):
    """Classes of recordings."""

    name_of_outputs = "classes"
    wording = Wording(
        held_out="recordings",
        rows=(
            ("accuracy", "accuracy", "majority_accuracy"),
            ("precision, mean of classes", "precision", ""),
            ("recall, mean of classes", "recall", ""),
            ("F1, mean of classes", "f1", ""),
            ("loss (nats)", "loss", "frequency_loss"),
        ),
        baselines="the most frequent class among the held-out recordings; the shares of all of them",
        chances={},
        shown=("loss", "accuracy", "seconds_of_sound_per_second", "mfu"),
        unit="windows",
        speed="seconds_of_sound_per_second",
        next_command="predict --init={workdir} clip.wav",
    )

    def batch_shapes(self, config: SoundClassification) -> dict[str, Any]:
        """Of windows and classes."""
        return audio_tasks.batch_shapes(config.training.global_batch_size, config.encoder, 0)

    def make_evaluation(
        self, config: SoundClassification, model: AudioForLabels, data: Recordings, mesh: Mesh
    ) -> Evaluation:
        """The scoring of held-out recordings, of long ones their first window."""
        score = audio_tasks.make_class_scoring(model)
        count = class_evaluation(score, data.held_out, "softmax", config.training.global_batch_size, mesh)

        def evaluate(params: PyTree, stopping: Callable[[], bool]) -> Evaluated | None:
            found = count(params, stopping)
            if found is None or found.confusion is None:
                return None
            scores = classification_scores(*as_examples(found.confusion), data.outputs)
            return Evaluated(found.scores | scores, found.confusion)

        return evaluate

    def draw(
        self, config: SoundClassification, workdir: str, data: Recordings, evaluated: Evaluated, params: PyTree
    ) -> list[str]:
        """Which classes are taken for which, the losses, and where in some recordings the model listens."""
        paths = draw_classes(workdir, evaluated, data.outputs)
        return paths + draw_first(self.model_for(config, data), workdir, data, params)


class SpellingFamily(HearingFamily):
    """Letters, with CTC."""

    name_of_outputs = "letters"
    wording = Wording(
        held_out="recordings",
        rows=(
            ("word error rate", "word_error_rate", "silent_word_error_rate"),
            ("character error rate", "character_error_rate", "silent_word_error_rate"),
            ("loss (nats a letter)", "loss", ""),
        ),
        baselines="to write nothing",
        chances={"silent_word_error_rate": 1.0},
        shown=("loss", "seconds_of_sound_per_second", "mfu"),
        unit="windows",
        speed="seconds_of_sound_per_second",
        next_command="predict --init={workdir} clip.wav",
    )

    def batch_shapes(self, config: Spelling) -> dict[str, Any]:
        """Of windows and letters."""
        return audio_tasks.batch_shapes(config.training.global_batch_size, config.encoder, config.letters.letters)

    def make_evaluation(self, config: Spelling, model: AudioForLabels, data: Recordings, mesh: Mesh) -> Evaluation:
        """The loss on held-out recordings, and the words that are wrong when they are spelt.

        Several processes tell the loss alone: `experiments.evaluate` counts the words afterwards.
        """
        score = audio_tasks.make_letters_scoring(model)
        speller = Speller(model, data.outputs, mesh, config.training.global_batch_size)

        def evaluate(params: PyTree, stopping: Callable[[], bool]) -> Evaluated | None:
            losses: list[Any] = []
            with jax.set_mesh(mesh):
                for batch in evaluation_batches(data.held_out, mesh, batch_size=config.training.global_batch_size):
                    if stopping():
                        return None
                    losses.append(score(params, batch))
            scores = means(jax.device_get(losses))
            return Evaluated(scores | (spelling_scores(speller, params, data) if jax.process_count() == 1 else {}))

        return evaluate

    def draw(self, config: Spelling, workdir: str, data: Recordings, evaluated: Evaluated, params: PyTree) -> list[str]:
        """The losses, and where in some recordings which letters are heard."""
        paths = draw_classes(workdir, evaluated, ())
        return paths + draw_first(self.model_for(config, data), workdir, data, params)


def spelling_scores(speller: Speller, params: PyTree, data: Recordings) -> dict[str, float]:
    """Both error rates of all held-out recordings."""
    written = speller.spell(params, [clip.audio for clip in data.scored])
    words, characters = count_errors([clip.label for clip in data.scored], written)
    return {"word_error_rate": words.rate, "character_error_rate": characters.rate}


def draw_first(model: AudioForLabels, workdir: str, data: Recordings, params: PyTree) -> list[str]:
    """Draws the first held-out recordings; nothing where several processes share the parameters."""
    if jax.process_count() > 1:
        return []
    paths = []
    for number in range(min(DRAWN, len(data.held_out))):
        paths.append(os.path.join(workdir, f"heard_{number}.png"))
        draw_hearing(paths[-1], model, params, data.held_out.example(0, number), data.outputs)
    return paths
