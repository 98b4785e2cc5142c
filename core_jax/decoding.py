"""Writes token after token with a model that reads them one by one: always the likeliest, or drawn at random.

What the model is does not matter here. Reading a prompt, or a text to translate, has left logits of what comes first
and a cache; `step(params, tokens, cache)` reads one token more of each row and gives the same of what comes next.

Axes: B rows, V vocabulary, C tokens of a chunk, P tokens of a prompt.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from core_jax.logit_filters import LogitFilters, filter_logits

CHUNK = 32  # tokens that are decoded at most without asking the host


# (params, the next token of each row, cache) -> logits of what follows, and the cache with the token in it.
Step = Callable[[PyTree, Int[Array, " B"], PyTree], tuple[Float[Array, "B V"], PyTree]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoding:
    """How far the rows are. Fields are Any: shapes and shardings stand there, too."""

    cache: Any  # of all tokens but the newest
    tokens: Any  # Int[Array, "B"]: the newest of each row
    ended: Any  # Bool[Array, "B"]: which rows are complete; what comes after means nothing
    seen: Any  # Bool[Array, "B V"]: which tokens are in each row, its prompt included; None if nobody asks
    count: Any  # Int[Array, ""]: tokens that were decoded


def row_keys(seed: int, prompts: Sequence[int], samples: Sequence[int]) -> Key[Array, " B"]:
    """The randomness of rows: that of a row depends on nothing else that is decoded with it.

    Args:
      seed: of all.
      prompts: the number of each row's prompt.
      samples: which of the continuations of its prompt each row is.
    """
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, 0))
    roots = jnp.broadcast_to(jax.random.key(seed), (len(prompts),))
    return fold(fold(roots, jnp.asarray(prompts, jnp.uint32)), jnp.asarray(samples, jnp.uint32))


def tokens_seen(tokens: Int[Array, "B P"], valid: Bool[Array, "B P"], vocabulary: int) -> Bool[Array, "B V"]:
    """Which tokens of the vocabulary are in each prompt, padding left out."""
    rows = jnp.arange(tokens.shape[0])[:, None]
    places = jnp.where(valid, tokens, vocabulary)  # one column more for the padding
    return jnp.zeros((tokens.shape[0], vocabulary + 1), bool).at[rows, places].set(True)[:, :vocabulary]


class Decoder:
    """Decoding with one model and one way to choose tokens: two compiled functions for every length."""

    def __init__(self, step: Step, filters: LogitFilters, end_ids: Sequence[int] = ()):
        """Makes the functions; nothing is compiled yet.

        Args:
          step: of the model.
          filters: how tokens are chosen.
          end_ids: tokens that complete a row.
        """
        self._step, self._filters, self._ends = step, filters, tuple(end_ids)
        self.start = jax.jit(self._start)
        self.advance = jax.jit(self._advance, donate_argnums=1)

    def _start(
        self,
        logits: Float[Array, "B V"],
        cache: PyTree,
        keys: Key[Array, " B"],
        ended: Bool[Array, " B"],
        seen: Bool[Array, "B V"] | None = None,
    ) -> Decoding:
        """Chooses the first token of each row.

        Args:
          logits: of what follows the prompts.
          cache: of the prompts.
          keys: from `row_keys`.
          ended: rows that are only there to fill up.
          seen: from `tokens_seen`, where there is a repetition penalty.
        """
        count = jnp.zeros((), jnp.int32)
        tokens = self._choose(logits, keys, count, seen)
        return Decoding(cache, tokens, ended | self._ends_row(tokens), _add(seen, tokens), count + 1)

    def _advance(
        self, params: PyTree, decoding: Decoding, keys: Key[Array, " B"], most: Int[Array, ""]
    ) -> tuple[Decoding, Int[Array, "C B"]]:
        """Decodes until all rows have ended, `most` tokens of each (CHUNK at most).

        Args:
          params: of the model.
          decoding: so far; its memory is written to.
          keys: as at the start.
          most: tokens; the cache has room for them.
        Returns:
          How far the rows are then, and the tokens, of which there are as many as `count` grew.
        """
        first = decoding.count

        def goes_on(state):
            decoding, _ = state
            return (decoding.count - first < jnp.minimum(most, CHUNK)) & ~jnp.all(decoding.ended)

        def decode(state):
            decoding, written = state
            logits, cache = self._step(params, decoding.tokens, decoding.cache)
            tokens = self._choose(logits, keys, decoding.count, decoding.seen)
            ended = decoding.ended | self._ends_row(tokens)
            written = jax.lax.dynamic_update_index_in_dim(written, tokens, decoding.count - first, 0)
            return Decoding(cache, tokens, ended, _add(decoding.seen, tokens), decoding.count + 1), written

        written = jnp.zeros((CHUNK, decoding.tokens.shape[0]), decoding.tokens.dtype)
        return jax.lax.while_loop(goes_on, decode, (decoding, written))

    def _choose(self, logits, keys, count, seen):
        logits = filter_logits(logits, self._filters, seen)
        if not self._filters.draws:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        now = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, count)
        return jax.vmap(jax.random.categorical)(now, logits).astype(jnp.int32)

    def _ends_row(self, tokens):
        return is_one_of(tokens, self._ends)


def is_one_of(tokens: Int[Array, "..."], ids: Sequence[int]) -> Bool[Array, "..."]:
    """Which tokens are among some ids."""
    found = jnp.zeros(tokens.shape, bool)
    for index in ids:
        found |= tokens == index
    return found


def _add(seen, tokens):
    return None if seen is None else seen.at[jnp.arange(tokens.shape[0]), tokens].set(True)
