"""Writes down what is said in recordings, window by window, those of several recordings together.

Axes: B rows, F frames of a window, M mel bands, V vocabulary.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Float32, Int, PyTree

from bert_jax.generation import before
from bert_jax.gpt import Gpt, decode_step, prefill
from bert_jax.transcript_rules import TranscriptRules
from bert_jax.transcript_tokens import Segment, Task, TranscriptTokens
from core_jax.decoding import CHUNK, Decoder, row_keys
from core_jax.layers import compute_dtype, in_compute_dtype
from core_jax.logit_filters import LogitFilters
from core_jax.multihead_attention import Others
from core_jax.plan import WRITING, Planner
from core_jax.sharding import batch_parts, batch_sharding, on_mesh
from experiments.speech.weights import Whisper
from vit_jax.audio_encoder import AudioEncoder
from vit_jax.audio_files import RATE, is_silent, read_audio
from vit_jax.log_mel import FRAMES_A_SECOND, HOP, log_mel

AUTO = "auto"
HEARING = "hearing"  # a call that is planned


@dataclasses.dataclass
class Recording:
    """A recording that is being written down."""

    samples: Float32[np.ndarray, " N"]
    frames: Float32[np.ndarray, "_ M"]  # of all of it, and of a window of silence behind it
    language: str
    segments: list[Segment] = dataclasses.field(default_factory=list)
    heard: float = 0.0  # seconds that are written down

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / RATE

    @property
    def is_done(self) -> bool:
        """Whether all of it is written down."""
        return self.heard >= self.seconds


class Recognizer:
    """Greedy recognition by one model: three compiled functions for every recording."""

    def __init__(
        self, whisper: Whisper, tokens: TranscriptTokens, mesh: Mesh, *, task: Task, stamps: bool, batch_size: int
    ):
        """Puts the model on the mesh.

        Args:
          whisper: the model.
          tokens: its vocabulary.
          mesh: where it is computed.
          task: what to write.
          stamps: whether time stamps are written.
          batch_size: windows that are computed together, at least.
        """
        self._encoder, self._decoder = AudioEncoder(whisper.encoder), Gpt(whisper.decoder)
        self._tokens, self._mesh, self._stamps = tokens, mesh, stamps
        self._task: Task = task
        parts = batch_parts(mesh)
        self._rows = -(-batch_size // parts) * parts
        self.use(whisper.params)
        forbidden = whisper.settings["suppressed"], whisper.settings["suppressed_first"]
        self._rules = TranscriptRules(tokens, whisper.decoder.vocab_size, *forbidden, stamps)
        step = self._rules.steps(lambda params, *rest: decode_step(self._decoder, params["decoder"], *rest))
        self._writer = Decoder(step, LogitFilters(), (tokens.end_id,))
        self._read = jax.jit(self._read_windows, static_argnames="capacity")

    def use(self, params: PyTree) -> None:
        """Writes with other parameters of the same model from now on, or plans with their shapes."""
        self._params = in_compute_dtype(on_mesh(params, self._mesh), compute_dtype(self._decoder.config))

    def plan(self, planner: Planner) -> None:
        """Plans, for parameters that are shapes, what `transcribe` computes: hearing windows, and each piece more."""
        place, rows, config = batch_sharding(self._mesh), self._rows, self._encoder.config
        of = lambda kind, *sizes: jax.ShapeDtypeStruct(sizes, kind, sharding=place)  # noqa: E731
        language = next(iter(self._tokens.languages), "en")
        prompt = self._tokens.prompt(language, self._task, stamps=self._stamps)
        inputs = of(jnp.float32, rows, config.frames, config.mel_bands), of(jnp.int32, rows, len(prompt))
        capacity = self._decoder.config.maximum_positions
        found = planner(HEARING, rows, "windows", self._read, self._params, *inputs, capacity)
        if found is None:
            return

        def start(logits: Array, cache: Any, keys: Array, ended: Array) -> Any:
            return self._writer.start(self._rules.first(logits), self._rules.started(cache, rows), keys, ended)

        keys = of(jax.eval_shape(jax.random.key, 0).dtype, rows)
        state = planner.outputs(jax.jit(start), *found, keys, of(bool, rows))
        limit = jax.ShapeDtypeStruct((), jnp.int32, sharding=NamedSharding(self._mesh, PartitionSpec()))
        if state is not None:
            planner(WRITING, rows, "tokens", self._writer.advance, self._params, state, keys, limit)

    @property
    def window(self) -> float:
        """Seconds that are heard at once."""
        return self._encoder.config.frames / FRAMES_A_SECOND

    def record(self, samples: Float32[np.ndarray, " N"], language: str) -> Recording:
        """A recording to write down; `language` is its code, or auto."""
        silence = np.zeros(self._encoder.config.frames * HOP, np.float32)
        return Recording(samples, log_mel(np.concatenate([samples, silence]), self._encoder.config.mel_bands), language)

    def transcribe(self, recordings: Sequence[Recording], heard: Callable[[float], None]) -> None:
        """Writes recordings down to their ends.

        Args:
          recordings: as many as there are; their segments and languages are filled in.
          heard: is told how many seconds more were written down.
        """
        with jax.set_mesh(self._mesh):
            while waiting := [one for one in recordings if not one.is_done]:
                batch = waiting[: self._rows]
                loud = [one for one in batch if not is_silent(self._part(one, one.samples, RATE))]
                if loud:
                    self._tell_languages(loud)
                written = dict(zip(map(id, loud), self._write(loud) if loud else [], strict=True))
                for one in batch:
                    heard(self._add(one, written.get(id(one), [])))

    def text(self, one: Recording) -> str:
        """What was written of a recording."""
        return self._tokens.text([token for piece in one.segments for token in piece.tokens]).strip()

    def _part(self, one: Recording, values, rate):
        start = round(one.heard * rate)
        return values[start : start + round(self.window * rate)]

    def _add(self, one: Recording, tokens: list[int]) -> float:
        """Takes what was written of a window; gives the seconds that it covers."""
        rest = min(self.window, one.seconds - one.heard)
        segments, covered = self._tokens.segments(tokens, rest) if tokens else ([], rest)
        for piece in segments:  # what the model hears behind the end is put there
            start, end = (min(one.heard + second, one.seconds) for second in (piece.start, piece.end))
            one.segments.append(dataclasses.replace(piece, start=start, end=end))
        covered = min(covered, rest) or rest
        to_the_end = one.seconds - one.heard
        one.heard = one.seconds if covered >= to_the_end else one.heard + covered
        return covered

    def _tell_languages(self, batch: Sequence[Recording]) -> None:
        """Asks the model for the languages that are not known."""
        if not any(one.language == AUTO for one in batch):
            return
        codes = sorted(self._tokens.languages)
        if not codes:
            told = ["en"] * len(batch)
        else:
            logits, _ = self._ask(batch, [self._tokens.start] * len(batch))
            ids = [self._tokens.languages[code] for code in codes]
            told = [codes[place] for place in np.asarray(logits)[: len(batch), ids].argmax(axis=1)]
        for one, language in zip(batch, told, strict=True):
            one.language = language if one.language == AUTO else one.language

    def _write(self, batch: Sequence[Recording]) -> list[list[int]]:
        """The tokens of each recording's next window, without the end."""
        prompts = [self._tokens.prompt(one.language, self._task, stamps=self._stamps) for one in batch]
        logits, cache = self._ask(batch, prompts)
        ended = self._put(np.arange(self._rows) >= len(batch))
        keys = row_keys(0, [0] * self._rows, [0] * self._rows)
        state = self._writer.start(self._rules.first(logits), self._rules.started(cache, self._rows), keys, ended)
        written, limit = [np.asarray(state.tokens)[None]], self._decoder.config.maximum_positions - len(prompts[0])
        while (done := int(state.count)) < limit and not np.asarray(state.ended).all():
            state, more = self._writer.advance(self._params, state, keys, jnp.int32(min(CHUNK, limit - done)))
            written.append(np.asarray(more)[: int(state.count) - done])
        tokens = np.concatenate(written)
        return [before(tokens[:, row].tolist(), (self._tokens.end_id,)) for row in range(len(batch))]

    def _ask(self, batch: Sequence[Recording], prompts: Sequence[Sequence[int]]) -> tuple[Array, Any]:
        """The logits of what follows each prompt, and the cache."""
        config = self._encoder.config
        windows = np.zeros((self._rows, config.frames, config.mel_bands), np.float32)
        for row, one in enumerate(batch):
            windows[row] = self._part(one, one.frames, FRAMES_A_SECOND)
        rows = np.array([*prompts, *[prompts[0]] * (self._rows - len(prompts))], np.int32)
        return self._read(self._params, self._put(windows), self._put(rows), self._decoder.config.maximum_positions)

    def _read_windows(
        self, params: PyTree, windows: Float[Array, "B F M"], prompts: Int[Array, "B P"], capacity: int
    ) -> tuple[Float[Array, "B V"], Any]:
        heard: Any = self._encoder.apply({"params": params["encoder"]}, windows)
        valid = jnp.ones(prompts.shape, bool)
        return prefill(self._decoder, params["decoder"], prompts, valid, capacity, Others(heard))

    def _put(self, array):
        return jax.device_put(array, batch_sharding(self._mesh))


def write_down(recognizer: Recognizer, paths: Sequence[str], language: str) -> list[str]:
    """What is said in some files."""
    recordings = [recognizer.record(read_audio(path), language) for path in paths]
    recognizer.transcribe(recordings, lambda seconds: None)
    return [recognizer.text(one) for one in recordings]
