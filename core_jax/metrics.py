"""Scores as (sum, count): on the device one pair a batch, on the host one mean over everything that was seen once."""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from core_jax.losses import Ratio


def accuracy(logits: Float[Array, "*shape C"], labels: Int[Array, "*shape"], weights: Float[Array, "*shape"]) -> Ratio:
    """(weight of the right answers, weight of all)."""
    right = jnp.argmax(logits, axis=-1) == labels
    return jnp.sum(right * weights), jnp.sum(weights)


def top_accuracy(
    logits: Float[Array, "*shape C"], labels: Int[Array, "*shape"], weights: Float[Array, "*shape"], places: int
) -> Ratio:
    """(weight of those whose right answer is among the first `places`, weight of all).

    Of equal logits those of the lower classes come first, as for `jnp.argmax`.
    """
    right = jnp.take_along_axis(logits, labels[..., None], axis=-1)
    before = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1) < labels[..., None]
    better = jnp.sum((logits > right) | ((logits == right) & before), axis=-1)
    return jnp.sum((better < places) * weights), jnp.sum(weights)


def means(batches: Iterable[Mapping[str, tuple[ArrayLike, ArrayLike]]]) -> dict[str, float]:
    """The mean of each score over batches, added up in float64 so that long evaluations lose nothing.

    Args:
      batches: {name: (sum, count)} of each batch.
    Returns:
      {name: sum of sums / sum of counts}; 0 where nothing was counted.
    """
    totals: dict[str, np.ndarray] = {}
    for batch in batches:
        for name, ratio in batch.items():
            totals[name] = totals.get(name, np.zeros(2)) + np.asarray(ratio, dtype=np.float64)
    return {name: float(total / count) if count else 0.0 for name, (total, count) in totals.items()}
