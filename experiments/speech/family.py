"""Writing down what is said as a family that `experiments.finetune --task=transcription` trains."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from core_jax.config import require
from core_jax.data import evaluation_batches
from core_jax.encoder_decoder import EncoderDecoder
from core_jax.family import Evaluated, Evaluation, Report, Wording
from core_jax.metrics import means
from core_jax.train import RATES, Metrics, State, compile_step, make_step
from experiments.speech import starting_points, tasks
from experiments.speech.config import Transcribing
from experiments.speech.pictures import cross_attention, draw_attention
from experiments.speech.recognizer import Recognizer, write_down
from experiments.speech.transcripts import Transcripts, open_transcripts, read_tokens
from experiments.speech.weights import Whisper, initial_params, join
from experiments.speech.word_errors import count_errors
from vit_jax.audio_clips import Clip, check_clips
from vit_jax.family import draw_losses

ROWS = 8  # recordings that are written down together
DRAWN = 4  # recordings whose attention is drawn


class TranscriptionFamily:
    """Fine-tuning of a Whisper; the methods are those of `core_jax.family.Family`."""

    wording = Wording(
        held_out="recordings",
        rows=(
            ("word error rate", "word_error_rate", "before_word_error_rate"),
            ("character error rate", "character_error_rate", "before_character_error_rate"),
            ("loss (nats a piece)", "loss", ""),
            ("next piece accuracy", "next_accuracy", ""),
        ),
        baselines="the model as it was before, with its own window",
        chances={},
        shown=("loss", "next_accuracy", "seconds_of_sound_per_second"),
        unit="windows",
        speed="seconds_of_sound_per_second",
        next_command="transcribe --init={workdir} clip.wav",
    )

    def adopt(self, config: Transcribing, report: Report) -> Transcribing:
        """The sizes of the Whisper that --init names, with the window that is asked for."""
        if not config.init:
            return config
        del report  # the sizes of a model are never those of a flag
        sizes = starting_points.read_sizes(config.init, config.clips.window_seconds)
        return dataclasses.replace(config, sizes=sizes)

    def check(self, config: Transcribing, workdir: str) -> None:
        """Raises for mistakes in --init, in where the recordings come from, and in the language."""
        del workdir
        require(bool(config.init), "--init=: expected a Whisper: hf:DIR, ct2:DIR or the work folder of a run")
        length, positions = config.transcripts.sequence_length, config.decoder.maximum_positions
        require(
            length <= positions,
            f"--sequence_length={length} is longer than the position table of --init={config.init}: "
            f"use --sequence_length={positions} or less",
        )
        folder = starting_points.vocabulary_folder(config.init)
        tokens = read_tokens(folder, config.decoder.vocab_size, config.sizes.settings)
        tokens.prompt(config.transcripts.language, "transcribe", stamps=False)
        check_clips(config.clips, config.transcripts.text_column)

    def model_ahead(self, config: Transcribing) -> EncoderDecoder:
        """The model."""
        return join(config.encoder, config.decoder)

    def batch_shapes(self, config: Transcribing) -> dict[str, Any]:
        """Of windows and transcripts."""
        rows, length = config.training.global_batch_size, config.transcripts.sequence_length
        return tasks.batch_shapes(rows, config.encoder, length)

    def units(self, config: Transcribing) -> int:
        """A row is a window."""
        del config
        return 1

    def open_data(self, config: Transcribing, workdir: str, report: Report) -> Transcripts:
        """The recordings; the vocabulary is kept in the work folder."""
        data = open_transcripts(config, workdir)
        if data.left_out:
            report(
                f"{data.left_out:,} recordings are longer than a window, or their transcripts than --sequence_length="
                f"{config.transcripts.sequence_length}: not trained on"
            )
        return data

    def name_of_rows(self, config: Transcribing) -> str:
        """What a batch holds."""
        del config
        return "recordings"

    def model_for(self, config: Transcribing, data: Transcripts) -> EncoderDecoder:
        """The model, whatever is said."""
        del data
        return self.model_ahead(config)

    def identity(self, data: Transcripts) -> dict[str, str]:
        """The vocabulary."""
        return starting_points.identity(data.folder)

    def load_init(
        self, config: Transcribing, model: EncoderDecoder, data: Transcripts, fresh: PyTree, mesh: Mesh, report: Report
    ) -> PyTree:
        """The parameters of what --init names."""
        del model, data
        return starting_points.load_init(config.init, fresh, mesh, report)

    def findings(self, config: Transcribing, data: Transcripts, workdir: str) -> list[str]:
        """How often each recording is heard."""
        del workdir
        training = config.training
        epochs = training.steps * training.global_batch_size / len(data.train)
        return [f"{training.steps:,} steps of {training.global_batch_size:,} recordings are {epochs:,.1f} epochs"]

    def initial_params(self, model: EncoderDecoder) -> Callable[[Key[Array, ""]], PyTree]:
        """key -> fresh parameters."""
        return initial_params(model)

    def training_step(
        self, config: Transcribing, model: EncoderDecoder, optimizer: optax.GradientTransformation, state: State
    ) -> Callable[..., tuple[State, Metrics]]:
        """The jitted step."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        loss = tasks.transcript_loss(model, train=True)
        return compile_step(make_step(loss, optimizer, config.training.accumulation_steps), shardings)

    def model_flops(self, model: EncoderDecoder, batch: PyTree) -> float:
        """Of full windows."""
        encoder: Any = model.encoder
        decoder: Any = model.decoder
        return float(tasks.step_flops(encoder.config, decoder.config, batch))

    def make_evaluation(self, config: Transcribing, model: EncoderDecoder, data: Transcripts, mesh: Mesh) -> Evaluation:
        """The loss on held-out recordings, and the words that are wrong when they are written down.

        Several processes tell the loss alone: `experiments.transcribe` counts the words afterwards.
        """
        score = jax.jit(tasks.transcript_loss(model, train=False))
        judge = WordJudge(config, data, mesh)

        def evaluate(params: PyTree, stopping: Callable[[], bool]) -> Evaluated | None:
            found: list[Any] = []
            with jax.set_mesh(mesh):
                for batch in evaluation_batches(data.held_out, mesh, batch_size=config.training.global_batch_size):
                    if stopping():
                        return None
                    found.append(score(params, batch, jax.random.key(0))[1])
            values = means(jax.device_get(found))
            scores = {name: value for name, value in values.items() if name not in RATES and name != "next_loss"}
            words = judge(params) if jax.process_count() == 1 else {}
            return Evaluated({"loss": values["next_loss"], **scores, **words})

        return evaluate

    def describe(self, data: Transcripts) -> str:
        """How many recordings."""
        minutes = sum(clip.seconds for clip in data.train.clips) / 60
        return f"{len(data.train):,} recordings, {minutes:,.1f} minutes, to train on, {len(data.held_out):,} held out"

    def summary(self, data: Transcripts) -> dict[str, Any]:
        """Sizes."""
        return {"train_recordings": len(data.train), "held_out_recordings": len(data.held_out)}

    def draw(
        self, config: Transcribing, workdir: str, data: Transcripts, evaluated: Evaluated, params: PyTree
    ) -> list[str]:
        """The losses by step, and where in some recordings each piece is heard."""
        del evaluated
        if jax.process_count() > 1:
            return [draw_losses(workdir)] if jax.process_index() == 0 else []
        paths = [draw_losses(workdir)]
        for number in range(min(DRAWN, len(data.held_out))):
            example = data.held_out.example(0, number)
            paths.append(os.path.join(workdir, f"attention_{number}.png"))
            weights = cross_attention(self.model_for(config, data), params, example)
            draw_attention(
                paths[-1], example, weights, [data.tokens.piece(label) for label in example["labels"].tolist()]
            )
        return paths


class WordJudge:
    """Counts the words that are wrong on held-out recordings, now and as the model was before."""

    def __init__(self, config: Transcribing, data: Transcripts, mesh: Mesh):
        """Makes and compiles nothing yet."""
        self._config, self._data, self._mesh = config, data, mesh
        self._recognizer: Recognizer | None = None

    def __call__(self, params: PyTree) -> dict[str, float]:
        """Both error rates with these parameters, and those before."""
        config = self._config
        if self._recognizer is None:
            now = Whisper(config.encoder, config.decoder, params, config.sizes.settings)
            self._recognizer = self._recognizer_of(now)
        self._recognizer.use(params)
        return self._rates(self._recognizer, "") | self._before

    @functools.cached_property
    def _before(self) -> dict[str, float]:
        whisper = starting_points.read_whisper(self._config.init, self._mesh, lambda text: None)
        return self._rates(self._recognizer_of(whisper), "before_")

    def _recognizer_of(self, whisper: Whisper) -> Recognizer:
        return Recognizer(whisper, self._data.tokens, self._mesh, task="transcribe", stamps=False, batch_size=ROWS)

    def _rates(self, recognizer: Recognizer, prefix: str) -> dict[str, float]:
        clips: Sequence[Clip] = self._data.scored
        written = write_down(recognizer, [clip.audio for clip in clips], self._config.transcripts.language)
        words, characters = count_errors([clip.label for clip in clips], written)
        return {f"{prefix}word_error_rate": words.rate, f"{prefix}character_error_rate": characters.rate}
