"""Continues texts with a GPT: prompts of different lengths at once, in batches of one shape.

Axes: N prompts of a batch, B rows (N x samples), P tokens of a prompt, V vocabulary.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from bert_jax.gpt import Gpt, decode_step, prefill
from core_jax.beam_search import BeamSearcher, BeamSettings, Finished
from core_jax.config import require
from core_jax.decoding import CHUNK, Decoder, row_keys, tokens_seen
from core_jax.key_value_cache import take_rows
from core_jax.layers import compute_dtype
from core_jax.logit_filters import LogitFilters
from core_jax.sharding import BATCH_AXES, batch_sharding

ROUNDED = 16  # lengths of prompts are rounded up to multiples of it
QUICK_SECONDS = 0.05  # while so many tokens take less, twice as many are decoded before they are shown
Ending = Literal["end", "stop", "length"]
# (row of the batch, its new tokens so far) -> whether its text is complete, by what it says
Watch = Callable[[int, list[int]], bool]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """How texts are continued."""

    filters: LogitFilters = dataclasses.field(default_factory=LogitFilters)
    search: BeamSettings = dataclasses.field(default_factory=BeamSettings)
    max_new_tokens: int = 64  # tokens that follow a prompt at most
    samples: int = 1  # continuations of each prompt: drawn ones, or the best beams
    seed: int = 0  # of all that is drawn; the draws of a prompt depend on its number and on nothing else

    def __post_init__(self):
        beams, samples = self.search.beams, self.samples
        require(self.max_new_tokens > 0, f"--max_new_tokens={self.max_new_tokens}: expected 1 or more")
        require(samples > 0, f"--samples={samples}: expected 1 or more")
        require(self.seed >= 0, f"--seed={self.seed}: expected 0 or more")
        temperature = f"--temperature={self.filters.temperature}"
        require(
            beams == 1 or not self.filters.draws,
            f"--beams={beams} looks for the likeliest text and {temperature} draws one: leave one of them out",
        )
        require(
            beams == 1 or samples <= beams,
            f"--samples={samples} with --beams={beams}: a search finds as many texts as beams; use --beams={samples}",
        )
        require(
            samples == 1 or beams > 1 or self.filters.draws,
            f"--samples={samples}: the likeliest text is one; add --temperature=1 to draw, or --beams={samples}",
        )


@dataclasses.dataclass(frozen=True)
class Continuation:
    """What follows a prompt."""

    tokens: list[int]  # without the one that ended it
    ending: Ending  # a token that ends, a stop string, or that there were enough
    score: float | None = None  # of a beam: log probability / length ** length_penalty


@dataclasses.dataclass
class Speed:
    """What was computed, and in which time: that of compilation apart."""

    prompt_tokens: int = 0
    prefill_seconds: float = 0.0
    decoded_tokens: int = 0  # of all rows, without the first of each, which the prompt's pass gives
    decode_seconds: float = 0.0
    compile_seconds: float = 0.0

    def describe(self) -> str:
        """One line for people."""
        read = self.prompt_tokens / max(self.prefill_seconds, 1e-9)
        written = self.decoded_tokens / max(self.decode_seconds, 1e-9)
        return (
            f"prompts: {self.prompt_tokens:,} tokens, {read:,.0f} a second; "
            f"new: {self.decoded_tokens:,} tokens, {written:,.1f} a second; compiled in {self.compile_seconds:.1f} s"
        )


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of all batches of prompts, so that each function is compiled once."""

    prompts: int  # N, those that fill up included
    length: int  # P
    capacity: int  # places of the cache

    @classmethod
    def of(cls, lengths: Sequence[int], settings: GenerationSettings, positions: int, rows: int, mesh: Mesh) -> "Shape":
        """The shape for all prompts.

        Args:
          lengths: of the prompts, in tokens.
          settings: say how many tokens follow.
          positions: that the model has.
          rows: continuations to compute at once, more or less.
          mesh: where they are computed.
        """
        longest = max(lengths)
        length = min(-(-longest // ROUNDED) * ROUNDED, positions - settings.max_new_tokens)
        prompts = min(max(rows // max(settings.samples, settings.search.beams), 1), len(lengths))
        replicas = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
        return cls(-(-prompts // replicas) * replicas, length, length + settings.max_new_tokens)


def check_lengths(lengths: Sequence[int], max_new_tokens: int, positions: int) -> None:
    """Refuses prompts that a model cannot continue.

    Args:
      lengths: of the prompts, in tokens.
      max_new_tokens: to follow each.
      positions: that the model has.
    Raises:
      UserError: one is empty, or too long.
    """
    require(bool(lengths), "no prompt given; type one, give --file=FILE, or send lines to standard input")
    for number, length in enumerate(lengths, start=1):
        name = "the prompt" if len(lengths) == 1 else f"prompt {number}"
        require(length > 0, f"{name} is empty; type a few words to go on from")
        require(
            length < positions,
            f"{name} has {length:,} tokens, and the model reads {positions:,} at most, one of them new: it is "
            f"{length + 1 - positions:,} too long; shorten it",
        )
        require(
            length + max_new_tokens <= positions,
            f"{name} has {length:,} tokens, and --max_new_tokens={max_new_tokens} more are "
            f"{length + max_new_tokens:,}: the model reads {positions:,} at most. "
            f"Use --max_new_tokens={positions - length} or less, or shorten it",
        )


class Generator:
    """Continues batches of prompts."""

    def __init__(self, model: Gpt, params: PyTree, end_id: int, settings: GenerationSettings, shape: Shape, mesh: Mesh):
        """Prepares a model; `compile` compiles.

        Args:
          model: unrolled.
          params: of it, on the mesh.
          end_id: token that ends a text.
          settings: how texts are continued.
          shape: of all batches.
          mesh: where they are computed.
        """
        self._model, self._settings, self._shape, self._mesh = model, settings, shape, mesh
        dtype = compute_dtype(model.config)
        # Kernels and tables in the type of computation: no step converts them again.
        self._params = jax.tree.map(lambda leaf: leaf.astype(dtype) if leaf.ndim > 1 else leaf, params)
        self._end_id, self.speed = end_id, Speed()
        self._prefill = jax.jit(self._read_prompts)
        step = functools.partial(decode_step, model)
        self._decoder = self._searcher = None
        if settings.search.beams > 1:
            self._searcher = BeamSearcher(step, take_rows, settings.search, settings.filters, (end_id,))
        else:
            self._decoder = Decoder(step, settings.filters, (end_id,))

    def compile(self) -> None:
        """Compiles all functions."""
        start = time.perf_counter()
        self._run([], [], lambda row, tokens: True)
        self.speed = Speed(compile_seconds=time.perf_counter() - start)

    def write(
        self, prompts: Sequence[Sequence[int]], numbers: Sequence[int], watch: Watch | None = None
    ) -> list[list[Continuation]]:
        """Continues prompts, as many as the shape has or fewer.

        Args:
          prompts: their tokens.
          numbers: one of each, which its draws depend on.
          watch: is called with each row's tokens whenever there are more, rows in the order of prompts, then samples;
            not where beams are searched, which change until the end.
        Returns:
          The continuations of each prompt.
        """
        rows = self._run(prompts, numbers, watch or (lambda row, tokens: False))
        samples = self._settings.samples
        return [rows[place : place + samples] for place in range(0, len(rows), samples)]

    def _run(self, prompts, numbers, watch):
        with jax.set_mesh(self._mesh):
            start = time.perf_counter()
            tokens, valid = self._pad(prompts)
            ended = self._put(np.arange(len(tokens)) >= len(prompts))
            logits, cache, seen = self._prefill(self._params, self._put(tokens), self._put(valid))
            jax.block_until_ready(logits)
            self.speed.prefill_seconds += time.perf_counter() - start
            self.speed.prompt_tokens += sum(map(len, prompts))
            if self._searcher is not None:
                return self._search(self._searcher, logits, cache, seen, ended, len(prompts))
            assert self._decoder is not None
            return self._decode(self._decoder, logits, cache, seen, ended, numbers, watch)

    def _pad(self, prompts):
        """Prompts with padding before them, and rows that fill up the batch."""
        tokens = np.zeros((self._shape.prompts, self._shape.length), np.int32)
        valid = np.zeros(tokens.shape, bool)
        valid[len(prompts) :, -1] = True
        for row, prompt in enumerate(prompts):
            tokens[row, -len(prompt) :], valid[row, -len(prompt) :] = prompt, True
        return tokens, valid

    def _put(self, array):
        return jax.device_put(array, batch_sharding(self._mesh))

    def _read_prompts(self, params: PyTree, tokens: Array, valid: Array) -> tuple[Float[Array, "B V"], Any, Any]:
        """Logits of what follows, cache, and the tokens seen where they are asked for; a row for each sample."""
        logits, cache = prefill(self._model, params, tokens, valid, self._shape.capacity)
        penalizes = self._settings.filters.penalizes
        seen = tokens_seen(tokens, valid, logits.shape[1]) if penalizes else None
        if self._searcher is not None or self._settings.samples == 1:
            return logits, cache, seen
        rows = jnp.repeat(jnp.arange(len(tokens)), self._settings.samples)
        return logits[rows], take_rows(cache, rows), None if seen is None else seen[rows]

    def _decode(self, decoder: Decoder, logits, cache, seen, ended, numbers, watch) -> list[Continuation]:
        start, samples = time.perf_counter(), self._settings.samples
        count, total = len(numbers) * samples, len(logits)
        ended = jnp.repeat(ended, samples)
        prompts = np.repeat([*numbers, *[0] * (self._shape.prompts - len(numbers))], samples)
        keys = self._put(row_keys(self._settings.seed, prompts.tolist(), [row % samples for row in range(total)]))
        state, most = decoder.start(logits, cache, keys, ended, seen), 1
        rows: list[list[int]] = [[token] for token in np.asarray(state.tokens)[:count].tolist()]
        stopped = np.zeros(total, bool)
        done, limit = 1, self._settings.max_new_tokens
        while True:
            whole = [row[: row.index(self._end_id)] if self._end_id in row else row for row in rows]
            stopped[:count] |= [watch(number, tokens) for number, tokens in enumerate(whole)]
            if done >= limit or np.all(np.asarray(state.ended) | stopped):
                break
            lap = time.perf_counter()
            state = dataclasses.replace(state, ended=self._put(np.asarray(state.ended) | stopped))
            state, new = decoder.advance(self._params, state, keys, jnp.int32(min(most, limit - done)))
            added, done, written = int(state.count) - done, int(state.count), np.asarray(new)
            for number, row in enumerate(rows):
                row += [] if stopped[number] else written[:added, number].tolist()
            if time.perf_counter() - lap < QUICK_SECONDS:
                most = min(2 * most, CHUNK)
        if not numbers:  # compiles what a batch without rows to go on with has not called
            decoder.advance(self._params, state, keys, jnp.int32(0))
        self.speed.decode_seconds += time.perf_counter() - start
        found = [self._finished(row, bool(stop)) for row, stop in zip(rows, stopped[:count], strict=True)]
        self.speed.decoded_tokens += sum(max(len(one.tokens) + (one.ending == "end") - 1, 0) for one in found)
        return found

    def _finished(self, tokens, is_stopped=False, score=None):
        if self._end_id in tokens:
            return Continuation(tokens[: tokens.index(self._end_id)], "stop" if is_stopped else "end", score)
        return Continuation(tokens, "stop" if is_stopped else "length", score)

    def _search(self, searcher: BeamSearcher, logits, cache, seen, ended, count) -> list[Continuation]:
        start, limit = time.perf_counter(), jnp.int32(self._settings.max_new_tokens)
        state = searcher.start(logits, cache, limit, ended, seen, places=self._settings.max_new_tokens)
        state = searcher.advance(self._params, state, limit)
        while state.goes_on:
            state = searcher.advance(self._params, state, limit)
        found: Finished = jax.device_get(state.finished)
        self.speed.decode_seconds += time.perf_counter() - start
        best = [
            self._finished(found.tokens[prompt, beam, : found.lengths[prompt, beam]].tolist(), score=score)
            for prompt in range(count)
            for beam, score in enumerate(found.scores[prompt, : self._settings.samples].tolist())
        ]
        self.speed.decoded_tokens += (int(state.count) - 1) * count
        return best
