"""What a recogniser may write next: no noises in brackets, and time stamps in pairs that never go back.

Axes: B rows, V vocabulary.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from bert_jax.transcript_tokens import TranscriptTokens
from core_jax.decoding import Step

NEVER = -jnp.inf
NONE = -1  # where there is no token yet
LATEST_START = 50  # time stamps, of one second, before which a transcript must begin


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Written:
    """What the rules remember of a transcript. Fields are Any: shapes and shardings stand there too."""

    cache: Any  # of the model
    last: Any  # Int[Array, "B"]: the newest token; NONE at first
    before: Any  # Int[Array, "B"]: the one before it; a time stamp where there is none
    stamp: Any  # Int[Array, "B"]: the latest time stamp; 0 where there is none


@dataclasses.dataclass(frozen=True)
class TranscriptRules:
    """Masks logits; a token that may not follow gets minus infinity.

    Source: Radford et al. 2022, section 4.5; https://github.com/openai/whisper (whisper/decoding.py)
    """

    tokens: TranscriptTokens
    vocabulary: int  # V
    suppressed: Sequence[int]  # tokens that are never written
    suppressed_first: Sequence[int]  # tokens that do not come first
    stamps: bool  # whether time stamps are written

    def first(self, logits: Float[Array, "B V"]) -> Float[Array, "B V"]:
        """The logits of the first token."""
        logits = jnp.where(self._never([*self.suppressed, *self.suppressed_first])[None], NEVER, logits)
        if not self.stamps:
            return logits
        ids = jnp.arange(self.vocabulary)
        first = self.tokens.first_stamp
        logits = jnp.where(((ids < first) | (ids > first + LATEST_START))[None], NEVER, logits)
        return self._prefer_stamps(logits)

    def started(self, cache: PyTree, rows: int) -> Written:
        """The memory of transcripts without a token."""
        none, stamp = jnp.full(rows, NONE), jnp.full(rows, self.tokens.first_stamp)
        return Written(cache, none, stamp, jnp.zeros_like(none))

    def steps(self, step: Step) -> Step:
        """A step of decoding that keeps to the rules; its cache is `Written`."""

        def masked(params: PyTree, tokens: Int[Array, " B"], written: Written) -> tuple[Float[Array, "B V"], Written]:
            logits, cache = step(params, tokens, written.cache)
            logits = jnp.where(self._never(self.suppressed)[None], NEVER, logits)
            first, is_new = self.tokens.first_stamp, written.last == NONE
            before = jnp.where(is_new, written.before, written.last)  # of the first token: as if a stamp
            stamp = jnp.where(tokens >= first, tokens, written.stamp)
            after = Written(cache, tokens, before, stamp)
            return self._after(logits, after) if self.stamps else logits, after

        return masked

    def _after(self, logits, written):
        first, ids = self.tokens.first_stamp, jnp.arange(self.vocabulary)[None]
        ended, paired = (written.last >= first)[:, None], (written.before >= first)[:, None]
        is_stamp = ids >= first
        logits = jnp.where(ended & paired & is_stamp, NEVER, logits)  # words follow a pair
        logits = jnp.where(ended & ~paired & (ids < self.tokens.end_id), NEVER, logits)  # a stamp, or the end
        # The end of a piece may be where it begins; the next begins no earlier, and nothing is empty.
        least = jnp.where(ended & ~paired, written.stamp[:, None], written.stamp[:, None] + 1)
        back = is_stamp & (ids < least) & (written.stamp > 0)[:, None]
        return self._prefer_stamps(jnp.where(back, NEVER, logits))

    def _prefer_stamps(self, logits):
        """No words where all time stamps together are likelier than the likeliest word."""
        first = self.tokens.first_stamp
        logits = jnp.where((jnp.arange(self.vocabulary) == self.tokens.plain_id)[None], NEVER, logits)
        logs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
        wins = jax.nn.logsumexp(logs[:, first:], axis=-1) > jnp.max(logs[:, :first], axis=-1)
        return jnp.where(wins[:, None] & (jnp.arange(self.vocabulary) < first)[None], NEVER, logits)

    def _never(self, ids: Sequence[int]) -> Bool[np.ndarray, " V"]:
        mask = np.arange(self.vocabulary) >= (self.vocabulary if self.stamps else self.tokens.first_stamp)
        mask[list(ids)] = True
        return mask
