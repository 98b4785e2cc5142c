"""Learning-rate schedules and optimizers, put together from optax parts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import DTypeLike, PyTree

from core_jax.config import OptimizerConfig


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate by step.

    Args:
      config: warm-up, shape and height.
      steps: of the whole run; decays end there.
    Returns:
      A function from the number of steps taken to the learning rate of the next. The warm-up starts at 0, as in the
      original BERT.
    Source: WSD from Hu et al. 2024, https://arxiv.org/abs/2404.06395; inverse square root from Vaswani et al. 2017.
    """
    top, warmup = config.learning_rate, config.warmup_steps
    rest, final = max(steps - warmup, 1), config.learning_rate * config.final_fraction
    if config.schedule == "linear":
        after = optax.linear_schedule(top, final, rest)
    elif config.schedule == "cosine":
        after = optax.cosine_decay_schedule(top, rest, alpha=config.final_fraction)
    elif config.schedule == "constant":
        after = optax.constant_schedule(top)
    elif config.schedule == "inverse_sqrt":
        start = max(warmup, 1)
        # the join below asks for the rate at negative counts too, and drops it
        after = lambda count: top * jnp.sqrt(start / (start + jnp.maximum(count, 0)))  # noqa: E731
    else:
        decay = max(round(steps * config.decay_fraction), 1)
        stable = max(rest - decay, 0)
        parts = [optax.constant_schedule(top), optax.linear_schedule(top, final, min(decay, rest))]
        after = optax.join_schedules(parts, [stable])
    return optax.join_schedules([optax.linear_schedule(0.0, top, max(warmup, 1)), after], [warmup])


def decays(params: PyTree) -> PyTree[bool]:
    """True for the leaves that weight decay shrinks: kernels and embeddings, not biases and LayerNorm."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in ("kernel", "embedding"), params)


class AdamState(NamedTuple):
    """Adam's memory."""

    mu: PyTree  # first moment
    nu: PyTree  # second moment


def scale_by_uncorrected_adam(
    beta1: float, beta2: float, epsilon: float, moment_dtype: DTypeLike = jnp.float32
) -> optax.GradientTransformation:
    """Adam without bias correction, as the original BERT was trained; optax has no switch for it.

    Args:
      beta1, beta2: decays of the moments.
      epsilon: added to the root of the second moment.
      moment_dtype: in which the first moment is kept; it is computed and used in float32.
    Source: `AdamWeightDecayOptimizer` in https://github.com/google-research/bert/blob/master/optimization.py
    """

    def init(params):
        return AdamState(optax.tree.zeros_like(params, dtype=moment_dtype), optax.tree.zeros_like(params))

    def update(updates, state, params=None):
        del params
        mu = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, state.nu, updates)
        scaled = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + epsilon), mu, nu)
        return scaled, AdamState(optax.tree.cast(mu, moment_dtype), nu)

    return optax.GradientTransformation(init, update)


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clipping, Adam, decoupled weight decay, (LAMB's trust ratio,) learning rate: in this order.

    Args:
      config: every hyperparameter.
      steps: of the whole run, for the schedule.
    Returns:
      A transformation of the global gradient. Under `jit` over a mesh the gradient is already the mean over all
      devices, so that clipping does not depend on how many there are.
    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1711.05101; You et al. 2019 (LAMB),
      https://arxiv.org/abs/1904.00962
    """
    moments: dict[str, Any] = {"b1": config.beta1, "b2": config.beta2, "eps": config.epsilon}
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        optax.scale_by_adam(**moments, mu_dtype=config.moment_dtype)
        if config.bias_correction
        else scale_by_uncorrected_adam(config.beta1, config.beta2, config.epsilon, config.moment_dtype),
        optax.add_decayed_weights(config.weight_decay, mask=decays),
        optax.scale_by_trust_ratio() if config.optimizer == "lamb" else optax.identity(),
        optax.scale_by_learning_rate(schedule(config, steps)),
    )
