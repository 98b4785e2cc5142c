"""Pure losses. Each gives (sum, count), so that the mean over devices, hosts, accumulated parts or rows is exact.

Axes: ... anything, C classes.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Ratio = tuple[Float[Array, ""], Float[Array, ""]]  # (sum, count); its value is sum / count


def cross_entropy(
    logits: Float[Array, "*shape C"],
    labels: Int[Array, "*shape"],
    weights: Float[Array, "*shape"],
    *,
    smoothing: float = 0.0,
) -> Ratio:
    """Softmax cross-entropy in nats.

    Args:
      logits: any float dtype; computed in float32.
      labels: the right class of each.
      weights: what each counts; 0 leaves it out.
      smoothing: share of each label that is spread evenly over all classes.
    Returns:
      (sum of weighted losses, sum of weights).
    Source: label smoothing from Szegedy et al. 2015, section 7, https://arxiv.org/abs/1512.00567
    """
    logits = logits.astype(jnp.float32)
    # A comparison and a sum instead of a gather: with classes sharded over devices nothing but the sum is moved.
    classes = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    chosen = classes == labels[..., None]
    label_logits = jnp.sum(jnp.where(chosen, logits, 0.0), axis=-1)
    if smoothing:
        label_logits = (1 - smoothing) * label_logits + smoothing * jnp.mean(logits, axis=-1)
    losses = jax.nn.logsumexp(logits, axis=-1) - label_logits
    return jnp.sum(losses * weights), jnp.sum(weights)


def squared_error(
    predictions: Float[Array, "*shape"], labels: Float[Array, "*shape"], weights: Float[Array, "*shape"]
) -> Ratio:
    """(sum of weighted squared differences, in float32, sum of weights)."""
    differences = predictions.astype(jnp.float32) - labels
    return jnp.sum(differences**2 * weights), jnp.sum(weights)


def objective(terms: Mapping[str, Ratio], totals: Mapping[str, Float[Array, ""]] | None = None) -> Float[Array, ""]:
    """The scalar to minimise: the sum of the terms' means.

    Args:
      terms: (sum, count) of each term on this batch.
      totals: where this batch is a part of a larger one, the counts of the whole: parts then add up to its mean.
    Returns:
      The sum over terms of sum / count; a term that counts nothing adds 0.
    """
    counts = {name: count for name, (_, count) in terms.items()} if totals is None else totals
    values = [total / jnp.maximum(counts[name], 1e-8) for name, (total, _) in terms.items()]
    return jnp.sum(jnp.stack(values))
