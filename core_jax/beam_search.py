"""Beam search: follows the likeliest few continuations of each prompt at once, as `transformers` does, to the token.

Each step looks at all continuations of a prompt's beams by one token and takes the best. Those that end go to the
finished ones, which are ranked by their mean log probability (or another power of their length); the rest go on.

Axes: N prompts, K beams of each, V vocabulary, F candidates of a step, T tokens at most.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from core_jax.config import require
from core_jax.decoding import CHUNK, Step, is_one_of
from core_jax.logit_filters import LogitFilters, filter_logits

LARGEST_PENALTY = 10  # of a few thousand tokens such a power is still a float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class BeamSettings:
    """How beams are searched."""

    beams: int = 1  # continuations that are followed at once; 1: no beam search
    length_penalty: float = 1.0  # power of the length that log probabilities of finished beams are divided by
    # when to end: False, once no running beam is likely to beat the worst finished one; True, once there are as many
    # finished ones as beams; never, once none can
    early_stopping: Literal["True", "False", "never"] = "False"

    def __post_init__(self):
        require(self.beams > 0, f"--beams={self.beams}: expected 1 or more")
        penalty, largest = self.length_penalty, LARGEST_PENALTY
        require(abs(penalty) <= largest, f"--length_penalty={penalty}: expected a number from -{largest} to {largest}")


class Finished(NamedTuple):
    """The best continuations that are complete, the best first."""

    tokens: Any  # Int[Array, "N K T"]
    lengths: Any  # Int[Array, "N K"]: how many of the tokens count, the one that ended it included
    scores: Any  # Float[Array, "N K"]: log probability / length ** length_penalty; minus infinity: there is none


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BeamSearch:
    """How far the search is. Fields are Any: shapes and shardings stand there, too."""

    cache: Any  # of N x K rows, all tokens but the newest
    tokens: Any  # Int[Array, "N K T"] of the running beams
    scores: Any  # Float[Array, "N K"]: their log probabilities, the best first
    seen: Any  # Bool[Array, "N K V"]: which tokens are in each beam and its prompt; None if nobody asks
    finished: Finished
    is_open: Any  # Bool[Array, "N"]: whether running beams may still beat finished ones
    goes_on: Any  # Bool[Array, ""]
    count: Any  # Int[Array, ""]: tokens of the running beams


class BeamSearcher:
    """Beam search with one model: two compiled functions for every length."""

    def __init__(
        self,
        step: Step,
        take_rows: Callable[[PyTree, Int[Array, " R"]], PyTree],
        settings: BeamSettings,
        filters: LogitFilters,
        end_ids: Sequence[int],
        never: Sequence[int] = (),
    ):
        """Makes the functions; nothing is compiled yet.

        Args:
          step: of the model.
          take_rows: (cache, rows) -> the cache of these rows, which may repeat.
          settings: of the search.
          filters: of logits, applied to log probabilities; nothing is drawn.
          end_ids: tokens that complete a continuation.
          never: tokens that are not written; the probabilities of the others stay as they are.
        """
        assert not filters.draws, "beam search draws nothing"
        self._step, self._take_rows, self._settings = step, take_rows, settings
        self._filters, self._ends, self._never = filters, tuple(end_ids), tuple(never)
        self.start = jax.jit(self._start, static_argnames="places")
        self.advance = jax.jit(self._advance, donate_argnums=1)

    def _start(
        self,
        logits: Float[Array, "N V"],
        cache: PyTree,
        limit: Int[Array, ""],
        ended: Bool[Array, " N"],
        seen: Bool[Array, "N V"] | None = None,
        *,
        places: int,
    ) -> BeamSearch:
        """Takes the first tokens.

        Args:
          logits: of what follows the prompts.
          cache: of the prompts, N rows.
          limit: tokens of a continuation at most.
          ended: prompts that are only there to fill up.
          seen: from `tokens_seen`, where there is a repetition penalty.
          places: T, what there is memory for.
        """
        (prompts, vocabulary), beams = logits.shape, self._settings.beams
        rows = jnp.repeat(jnp.arange(prompts), beams)
        spread = lambda x: jnp.broadcast_to(x[:, None], (prompts, beams, *x.shape[1:]))  # noqa: E731
        nothing = jnp.zeros((prompts, beams, places), jnp.int32)
        # The beams of a prompt are still the same: only the first is looked at.
        scores = jnp.full((prompts, beams), -jnp.inf).at[:, 0].set(0.0)
        finished = Finished(nothing, nothing[:, :, 0], jnp.full((prompts, beams), -jnp.inf))
        search = BeamSearch(
            self._take_rows(cache, rows),
            nothing,
            scores,
            None if seen is None else spread(seen),
            finished,
            ~ended,
            jnp.ones((), bool),
            jnp.zeros((), jnp.int32),
        )
        return self._extend(search, spread(logits).reshape(-1, vocabulary), limit)

    def _advance(self, params: PyTree, search: BeamSearch, limit: Int[Array, ""]) -> BeamSearch:
        """Goes on by some tokens, or to the end.

        Args:
          params: of the model.
          search: so far; its memory is written to.
          limit: as at the start.
        """
        first = search.count

        def extend(search):
            newest = jax.lax.dynamic_index_in_dim(search.tokens, search.count - 1, axis=2, keepdims=False)
            logits, cache = self._step(params, newest.reshape(-1), search.cache)
            return self._extend(dataclasses.replace(search, cache=cache), logits, limit)

        def goes_on(search):
            return search.goes_on & (search.count - first < CHUNK)

        return jax.lax.while_loop(goes_on, extend, search)

    def _extend(self, search: BeamSearch, logits: Float[Array, "R V"], limit: Int[Array, ""]) -> BeamSearch:
        """Takes the best continuations by one token."""
        prompts, beams, vocabulary = *search.scores.shape, logits.shape[1]
        seen = None if search.seen is None else search.seen.reshape(-1, vocabulary)
        gains = filter_logits(jax.nn.log_softmax(logits, axis=-1), self._filters, seen)
        if self._never:
            gains = gains.at[:, jnp.array(self._never)].set(-jnp.inf)
        totals = (gains.reshape(prompts, beams, vocabulary) + search.scores[:, :, None]).reshape(prompts, -1)
        # So many that, should all of their ends be among them, enough are left that go on.
        candidates = min(max(2, 1 + len(self._ends)) * beams, totals.shape[1])
        totals, places = jax.lax.top_k(totals, candidates)
        parents, newest = places // vocabulary, (places % vocabulary).astype(jnp.int32)
        tokens = jnp.take_along_axis(search.tokens, parents[:, :, None], axis=1)
        tokens = jax.lax.dynamic_update_index_in_dim(tokens, newest, search.count, axis=2)
        count = search.count + 1
        ends = is_one_of(newest, self._ends) | (count >= limit)
        scores, chosen = jax.lax.top_k(jnp.where(ends, -jnp.inf, totals), beams)
        finished = self._finish(search, tokens, totals, ends, count)
        is_open = search.is_open & self._may_improve(finished.scores, scores[:, 0], count, limit)
        done = jnp.all((finished.scores > -jnp.inf) | ~search.is_open[:, None]) & (self._early == "True")
        parents = jnp.take_along_axis(parents, chosen, axis=1)
        return BeamSearch(
            self._take_rows(search.cache, (parents + jnp.arange(prompts)[:, None] * beams).reshape(-1)),
            jnp.take_along_axis(tokens, chosen[:, :, None], axis=1),
            scores,
            self._see(search.seen, parents, jnp.take_along_axis(newest, chosen, axis=1)),
            finished,
            is_open,
            jnp.any(is_open) & ~done & ~jnp.all(ends),
            count,
        )

    def _finish(self, search, tokens, totals, ends, count):
        """Puts candidates that ended among the finished ones, of which the best stay."""
        beams = search.scores.shape[1]
        # The candidates after the first K are only there to go on.
        may = ends & (jnp.arange(totals.shape[1]) < beams)[None] & search.is_open[:, None]
        if self._early == "True":
            may &= ~jnp.all(search.finished.scores > -jnp.inf, axis=1, keepdims=True)
        scores = jnp.where(may, totals / _power(count, self._settings.length_penalty), -jnp.inf)
        scores = jnp.concatenate((search.finished.scores, scores), axis=1)
        tokens = jnp.concatenate((search.finished.tokens, tokens), axis=1)
        lengths = jnp.concatenate((search.finished.lengths, jnp.broadcast_to(count, totals.shape)), axis=1)
        scores, best = jax.lax.top_k(scores, beams)
        tokens = jnp.take_along_axis(tokens, best[:, :, None], axis=1)
        return Finished(tokens, jnp.take_along_axis(lengths, best, axis=1), scores)

    def _may_improve(self, finished, best, count, limit):
        """Whether the best running beam of each prompt may beat the worst finished one: a guess, unless `never`."""
        penalty = self._settings.length_penalty
        length = limit if self._early == "never" and penalty > 0 else count
        return best / _power(length, penalty) > jnp.min(finished, axis=1)

    def _see(self, seen, parents, newest):
        if seen is None:
            return None
        seen = jnp.take_along_axis(seen, parents[:, :, None], axis=1)
        rows, beams = jnp.indices(newest.shape, sparse=True)
        return seen.at[rows, beams, newest].set(True)

    @property
    def _early(self):
        return self._settings.early_stopping


def _power(length, penalty):
    return length.astype(jnp.float32) ** penalty
