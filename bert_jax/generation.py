"""Continues texts with a GPT: prompts of different lengths at once, in batches of one shape.

Axes: N prompts of a batch, B rows (N x samples), P tokens of a prompt, C new tokens, V vocabulary.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PyTree

from bert_jax.generation_settings import GenerationSettings, Shape
from bert_jax.gpt import Gpt, decode_step, prefill
from core_jax.beam_search import BeamSearcher, Finished
from core_jax.decoding import CHUNK, Decoder, row_keys, tokens_seen
from core_jax.key_value_cache import take_rows
from core_jax.layers import compute_dtype, in_compute_dtype
from core_jax.plan import READING, WRITING, Planner
from core_jax.sharding import batch_sharding

QUICK_SECONDS = 0.05  # while so many tokens take less, twice as many are decoded before they are shown
Ending = Literal["end", "stop", "length"]
# (row of the batch, its new tokens so far) -> whether its text is complete, by what it says
Watch = Callable[[int, list[int]], bool]


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


class Generator:
    """Continues batches of prompts."""

    def __init__(
        self,
        model: Gpt,
        params: PyTree,
        settings: GenerationSettings,
        shape: Shape,
        mesh: Mesh,
        *,
        pieces: int,
        end_ids: Sequence[int],
    ):
        """Prepares a model; `compile` compiles.

        Args:
          model: unrolled.
          params: of it, on the mesh.
          settings: how texts are continued.
          shape: of all batches.
          mesh: where they are computed.
          pieces: of the vocabulary; rows of the table after those are never chosen.
          end_ids: pieces that end a text.
        """
        self._model, self._settings, self._shape, self._mesh = model, settings, shape, mesh
        self._params = in_compute_dtype(params, compute_dtype(model.config))
        self._pieces, self._end_ids, self.speed = pieces, tuple(end_ids), Speed()
        self._prefill = jax.jit(self._read_prompts)

        def step(params: PyTree, tokens: Int[Array, " B"], cache: PyTree) -> tuple[Float[Array, "B V"], PyTree]:
            logits, cache = decode_step(model, params, tokens, cache)
            return logits[:, :pieces], cache

        self._decoder = self._searcher = None
        if settings.search.beams > 1:
            self._searcher = BeamSearcher(step, take_rows, settings.search, settings.filters, self._end_ids)
        else:
            self._decoder = Decoder(step, settings.filters, self._end_ids)

    def compile(self) -> None:
        """Compiles all functions."""
        start = time.perf_counter()
        self._run([], [], lambda row, tokens: True)
        self.speed = Speed(compile_seconds=time.perf_counter() - start)

    def plan(self, planner: Planner) -> None:
        """Plans, for parameters that are shapes, what `write` computes: reading prompts, and each token more."""
        place, shape = batch_sharding(self._mesh), self._shape
        rows = shape.prompts * self._settings.samples
        of = lambda kind, *sizes: jax.ShapeDtypeStruct(sizes, kind, sharding=place)  # noqa: E731
        prompts = shape.prompts, shape.length
        units = shape.prompts * shape.length, "tokens"
        found = planner(READING, *units, self._prefill, self._params, of(jnp.int32, *prompts), of(bool, *prompts))
        if found is None:
            return
        logits, cache, seen = found
        limit = jax.ShapeDtypeStruct((), jnp.int32, sharding=NamedSharding(self._mesh, PartitionSpec()))
        if self._searcher is not None:
            start = functools.partial(self._searcher.start, places=self._settings.max_new_tokens)
            state = planner.outputs(jax.jit(start), logits, cache, limit, of(bool, shape.prompts), seen)
            if state is not None:
                beams = shape.prompts * self._settings.search.beams
                planner(WRITING, beams, "tokens", self._searcher.advance, self._params, state, limit)
            return
        assert self._decoder is not None
        keys = of(jax.eval_shape(jax.random.key, 0).dtype, rows)
        state = planner.outputs(self._decoder.start, logits, cache, keys, of(bool, rows), seen)
        if state is None:
            return
        state = dataclasses.replace(state, ended=of(bool, rows))  # which stop strings change on the host
        planner(WRITING, rows, "tokens", self._decoder.advance, self._params, state, keys, limit)

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
        logits = logits[:, : self._pieces]
        penalizes = self._settings.filters.penalizes
        seen = tokens_seen(tokens, valid, logits.shape[1]) if penalizes else None
        if self._searcher is not None or self._settings.samples == 1:
            return logits, cache, seen
        rows = jnp.repeat(jnp.arange(len(tokens)), self._settings.samples)
        return logits[rows], take_rows(cache, rows), None if seen is None else seen[rows]

    def _decode(self, decoder: Decoder, logits, cache, seen, ended, numbers, watch) -> list[Continuation]:
        start, samples, limit = time.perf_counter(), self._settings.samples, self._settings.max_new_tokens
        prompts = np.repeat([*numbers, *[0] * (self._shape.prompts - len(numbers))], samples).tolist()
        keys = row_keys(self._settings.seed, prompts, [row % samples for row in range(len(prompts))])
        keys, ended, most = self._put(keys), jnp.repeat(ended, samples), 1
        state = decoder.start(logits, cache, keys, ended, seen)
        rows = _Rows(np.asarray(state.tokens)[: len(numbers) * samples], self._end_ids)
        while True:
            done, ended = int(state.count), np.array(state.ended)
            ended[: len(rows.tokens)] |= rows.look(watch)
            if done >= limit or ended.all():
                break
            lap = time.perf_counter()
            state = dataclasses.replace(state, ended=self._put(ended))
            state, written = decoder.advance(self._params, state, keys, jnp.int32(min(most, limit - done)))
            rows.add(np.asarray(written)[: int(state.count) - done])
            if time.perf_counter() - lap < QUICK_SECONDS:
                most = min(2 * most, CHUNK)
        if not numbers:  # a batch without prompts, of `compile`, has not called it
            decoder.advance(self._params, state, keys, jnp.int32(0))
        self.speed.decode_seconds += time.perf_counter() - start
        found = [self._finished(*row) for row in zip(rows.tokens, rows.stopped.tolist(), strict=True)]
        self.speed.decoded_tokens += sum(max(len(one.tokens) + (one.ending == "end") - 1, 0) for one in found)
        return found

    def _finished(self, tokens, is_stopped=False, score=None):
        text = before(tokens, self._end_ids)
        ending = "stop" if is_stopped else "length" if len(text) == len(tokens) else "end"
        return Continuation(text, ending, score)

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


class _Rows:
    """The new tokens of each row on the host, and which rows are complete by what they say."""

    def __init__(self, first, end_ids):
        self.tokens: list[list[int]] = [[token] for token in first.tolist()]
        self.stopped = np.zeros(len(first), bool)
        self._end_ids = end_ids

    def add(self, written):
        """Takes tokens, [C, B]."""
        for row, tokens in enumerate(self.tokens):
            tokens += [] if self.stopped[row] else written[:, row].tolist()

    def look(self, watch):
        """Asks about each row; gives those that are complete."""
        texts = (before(tokens, self._end_ids) for tokens in self.tokens)
        self.stopped |= np.array([watch(row, text) for row, text in enumerate(texts)], bool)
        return self.stopped


def before(tokens: list[int], end_ids: Sequence[int]) -> list[int]:
    """The tokens before the first that ends a text."""
    return list(itertools.takewhile(lambda token: token not in end_ids, tokens))
