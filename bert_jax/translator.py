"""Translates batches of sentences: the encoder reads them once, beams of the decoder write.

Axes: N sentences of a batch, S tokens of a source, V vocabulary, K beams.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PyTree

from bert_jax.gpt import decode_step, prefill
from bert_jax.translation import Translator
from bert_jax.translation_config import TranslationConfig
from core_jax.beam_search import BeamSearcher, BeamSettings, Finished
from core_jax.key_value_cache import KeyValueCache, take_rows
from core_jax.layers import compute_dtype, in_compute_dtype
from core_jax.logit_filters import LogitFilters
from core_jax.plan import READING, WRITING, Planner
from core_jax.sharding import batch_sharding

LONGER = 50  # tokens by which a translation may be longer than its source, as in Vaswani et al. 2017, section 6.1
SMALLEST = 16  # places for a source at least


def bucket_length(length: int, longest: int) -> int:
    """The places that a sentence of so many tokens gets: 16, 32, 64, ... so that few shapes are compiled."""
    return min(max(SMALLEST, 1 << (length - 1).bit_length()), longest)


class BatchTranslator:
    """Beam search with one model, compiled once for each bucket of lengths."""

    def __init__(self, model: Translator, params: PyTree, search: BeamSettings, mesh: Mesh, *, rows: int):
        """Prepares a model.

        Args:
          model: unrolled.
          params: of it, on the mesh.
          search: beams; with one, each next token is the likeliest (greedy search).
          mesh: where they are computed.
          rows: N, sentences of a batch.
        """
        if search.beams == 1:  # the first end is that of the search
            search = dataclasses.replace(search, early_stopping="True")
        self._model, self._mesh, self._rows = model, mesh, rows
        self._params = in_compute_dtype(params, compute_dtype(model.config))
        self._read = jax.jit(self._read_sources, static_argnames="capacity")
        config = model.config  # padding is never written
        self._searcher = BeamSearcher(
            self._step, take_rows, search, LogitFilters(), (config.end_id,), never=(config.pad_id,)
        )

    @property
    def config(self) -> TranslationConfig:
        """Of the model."""
        return self._model.config

    def translate(self, sources: Sequence[Sequence[int]], limit: int | None = None) -> list[list[int]]:
        """Translates any number of sentences, those of a length together.

        Args:
          sources: tokens of each, the one that ends it included.
          limit: tokens of a translation at most; by default as many as its bucket of sources has, and 50.
        Returns:
          The tokens of the likeliest translation of each, without the one that ends it.
        """
        longest, found = self._model.config.maximum_positions, {}
        length_of = functools.partial(bucket_length, longest=longest)
        order = sorted(range(len(sources)), key=lambda index: length_of(len(sources[index])))
        while order:
            length = length_of(len(sources[order[0]]))
            same = [index for index in order[: self._rows] if length_of(len(sources[index])) == length]
            order = order[len(same) :]
            found |= dict(zip(same, self._translate([sources[index] for index in same], length, limit), strict=True))
        return [found[index] for index in range(len(sources))]

    def plan(self, planner: Planner, length: int) -> None:
        """Plans, for parameters that are shapes, what `translate` computes: reading sources, and each token more.

        Args:
          planner: keeps what comes out.
          length: of the sources, a bucket's.
        """
        place, rows, places = batch_sharding(self._mesh), self._rows, self._places(length, None)
        sources = jax.ShapeDtypeStruct((rows, length), jnp.int32, sharding=place)
        found = planner(READING, rows * length, "tokens", self._read, self._params, sources, sources, 1 + places)
        if found is None:
            return
        limit = jax.ShapeDtypeStruct((), jnp.int32, sharding=NamedSharding(self._mesh, PartitionSpec()))
        ended = jax.ShapeDtypeStruct((rows,), bool, sharding=place)
        start = functools.partial(self._searcher.start, places=places)
        state = planner.outputs(jax.jit(start), *found, limit, ended)
        if state is not None:
            planner(WRITING, state.scores.size, "tokens", self._searcher.advance, self._params, state, limit)

    def _places(self, length, limit):
        """Of the cache, for tokens to come."""
        return min(limit or length + LONGER, self._model.config.maximum_positions - 1)

    def _translate(self, sources, length, limit):
        config = self._model.config
        tokens = np.full((self._rows, length), config.pad_id, np.int32)
        segments = np.zeros(tokens.shape, np.int32)
        segments[len(sources) :, 0] = 1
        for row, source in enumerate(sources):
            tokens[row, : len(source)], segments[row, : len(source)] = source, 1
        places = self._places(length, limit)
        with jax.set_mesh(self._mesh):
            put = lambda x: jax.device_put(x, batch_sharding(self._mesh))  # noqa: E731
            logits, cache = self._read(self._params, put(tokens), put(segments), capacity=1 + places)
            ended, most = put(np.arange(self._rows) >= len(sources)), jnp.int32(places)
            state = self._searcher.start(logits, cache, most, ended, None, places=places)
            state = self._searcher.advance(self._params, state, most)
            while state.goes_on:
                state = self._searcher.advance(self._params, state, most)
        best: Finished = jax.device_get(state.finished)
        texts = (best.tokens[row, 0, : best.lengths[row, 0]].tolist() for row in range(len(sources)))
        return [text[:-1] if text[-1:] == [config.end_id] else text for text in texts]

    def _read_sources(
        self, params: PyTree, sources: Int[Array, "N S"], segments: Int[Array, "N S"], capacity: int
    ) -> tuple[Float[Array, "N V"], KeyValueCache]:
        """Logits of the first token of each translation, and the cache that the others go on from."""
        model, config = self._model, self._model.config
        others: Any = model.apply({"params": params}, sources, segments, method=Translator.encode)
        starts = jnp.full((len(sources), 1), config.start_id, jnp.int32)
        return prefill(model, params, starts, jnp.ones(starts.shape, bool), capacity, others)

    def _step(
        self, params: PyTree, tokens: Int[Array, " R"], cache: KeyValueCache
    ) -> tuple[Float[Array, "R V"], KeyValueCache]:
        return decode_step(self._model, params, tokens, cache)
