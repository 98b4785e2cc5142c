"""What is done to logits before a token is chosen: repetition penalty, temperature, top-k, top-p, min-p, in this order.

Axes: B rows, V vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from core_jax.config import require

LOWEST_TEMPERATURE = 1e-6  # below it divided logits are no float32
FLOAT_BITS = 31  # of a float32 that is not negative: as integers they have the same order


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogitFilters:
    """Which filters are on; by default none, and the likeliest token is taken."""

    temperature: float = 0.0  # 0: always the likeliest token; above, logits are divided by it and a token is drawn
    top_k: int = 0  # draw from so many of the likeliest tokens; 0: from all
    top_p: float = 1.0  # draw from the fewest likeliest tokens that together have this probability
    min_p: float = 0.0  # draw from tokens that have at least this share of the likeliest one's probability
    repetition_penalty: float = 1.0  # above 1, tokens that are there already, the prompt's too, become less likely

    def __post_init__(self):
        drawn = self.temperature == 0 or self.temperature >= LOWEST_TEMPERATURE
        require(drawn, f"--temperature={self.temperature}: expected 0, or {LOWEST_TEMPERATURE} or more")
        require(self.top_k >= 0, f"--top_k={self.top_k}: expected 1 or more, or 0 for all tokens")
        require(0 < self.top_p <= 1, f"--top_p={self.top_p}: expected a probability above 0, at most 1")
        require(0 <= self.min_p <= 1, f"--min_p={self.min_p}: expected a share from 0 to 1")
        require(self.repetition_penalty > 0, f"--repetition_penalty={self.repetition_penalty}: expected more than 0")
        idle = [name for name, given in self._choosing().items() if given] if not self.draws else []
        require(
            not idle,
            f"--{' and --'.join(idle)}: of what is drawn from, but nothing is drawn; add --temperature=1, or leave out",
        )

    def _choosing(self):
        return {"top_k": self.top_k > 0, "top_p": self.top_p < 1, "min_p": self.min_p > 0}

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn, and not always the likeliest is taken."""
        return self.temperature > 0

    @property
    def penalizes(self) -> bool:
        """Whether it matters which tokens are there already."""
        return self.repetition_penalty != 1


def filter_logits(
    logits: Float[Array, "B V"], filters: LogitFilters, seen: Bool[Array, "B V"] | None = None
) -> Float[Array, "B V"]:
    """Applies the filters that are on.

    Args:
      logits: of the next token of each row; log probabilities are, too.
      filters: which.
      seen: tokens that are in the row already, where there is a repetition penalty.
    Returns:
      Logits, minus infinity for tokens that cannot come.
    """
    if filters.penalizes:
        assert seen is not None, "a repetition penalty needs the tokens seen"
        logits = penalize_repetition(logits, seen, filters.repetition_penalty)
    if filters.draws:
        logits = logits / filters.temperature
        logits = keep_top_k(logits, filters.top_k) if filters.top_k else logits
        logits = keep_top_p(logits, filters.top_p) if filters.top_p < 1 else logits
        logits = keep_min_p(logits, filters.min_p) if filters.min_p else logits
    return logits


def penalize_repetition(logits: Float[Array, "B V"], seen: Bool[Array, "B V"], penalty: float) -> Float[Array, "B V"]:
    """Makes tokens less likely that were there before.

    Args:
      logits: of the next token.
      seen: which tokens were there.
      penalty: divides their logits if positive, multiplies them if negative; 1 changes nothing.
    Source: Keskar et al. 2019, section 4.1, https://arxiv.org/abs/1909.05858
    """
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def keep_top_k(logits: Float[Array, "B V"], count: int) -> Float[Array, "B V"]:
    """Keeps the `count` likeliest tokens, and those that are as likely as the last of them.

    Source: Fan et al. 2018, section 5.4, https://arxiv.org/abs/1805.04833
    """
    least = jax.lax.top_k(logits, min(count, logits.shape[-1]))[0][:, -1:]
    return jnp.where(logits >= least, logits, -jnp.inf)


def keep_top_p(logits: Float[Array, "B V"], mass: float) -> Float[Array, "B V"]:
    """Keeps the fewest likeliest tokens whose probabilities add up to `mass`, and those as likely as the last of them.

    Source: Holtzman et al. 2019, section 3.1, https://arxiv.org/abs/1904.09751
    """
    shares = jax.nn.softmax(logits, axis=-1)
    bits = jax.lax.bitcast_convert_type(shares, jnp.int32)

    # A token stays if all that are likelier have less than `mass` together. The least such probability is found by
    # bisection, bit by bit: sorting 50,257 of them takes a CPU twelve times as long.
    def halve(_, bounds):
        below, above = bounds
        middle = below + (above - below) // 2
        enough = jnp.sum(shares, axis=-1, where=bits > middle, keepdims=True) < mass
        return jnp.where(enough, below, middle), jnp.where(enough, middle, above)

    lowest = jnp.full((logits.shape[0], 1), -1, jnp.int32)
    highest = jnp.max(bits, axis=-1, keepdims=True)
    _, least = jax.lax.fori_loop(0, FLOAT_BITS, halve, (lowest, highest))
    return jnp.where(bits >= least, logits, -jnp.inf)


def keep_min_p(logits: Float[Array, "B V"], share: float) -> Float[Array, "B V"]:
    """Keeps tokens that are at least `share` times as probable as the likeliest one.

    Source: Nguyen et al. 2024, section 3, https://arxiv.org/abs/2407.01082
    """
    return jnp.where(logits >= jnp.max(logits, axis=-1, keepdims=True) + jnp.log(share), logits, -jnp.inf)
