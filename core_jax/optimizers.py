"""Learning-rate schedules and optimizers, put together from optax parts."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, DTypeLike, PyTree

from core_jax.config import OptimizerConfig, TrainingConfig
from core_jax.errors import UserError
from core_jax.lora import Factors, lora
from core_jax.sharding import path_name

DECAYING = ("kernel", "embedding", *Factors._fields)  # names of what weight decay shrinks


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
    """True for the leaves that weight decay shrinks: kernels, their LoRA, embeddings; not biases and LayerNorm."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path_name(path).split("/")[-1] in DECAYING, params)


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
    """Clipping, Adam or momentum, weight decay, (LAMB's trust ratio,) learning rate, (layer-wise decay): in this order.

    What `config.freeze` matches has no part in the gradient's norm and does not change. With a `config.lora_rank` all
    of this is done to the factors of LoRA, and to what is trained whole beside them.

    Args:
      config: every hyperparameter.
      steps: of the whole run, for the schedule.
    Returns:
      A transformation of the global gradient. Under `jit` over a mesh the gradient is already the mean over all
      devices, so that clipping does not depend on how many there are.
    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1711.05101; You et al. 2019 (LAMB),
      https://arxiv.org/abs/1904.00962
    """
    parts = [
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        _direction(config),
        optax.add_decayed_weights(config.weight_decay, mask=decays),
        optax.scale_by_trust_ratio() if config.optimizer == "lamb" else optax.identity(),
        optax.scale_by_learning_rate(schedule(config, steps)),
    ]
    # Only where they are asked for: the state of all other runs, and so their checkpoints, stay as they were.
    if config.layer_decay < 1:
        parts.append(scale_by_layer(config.layer_decay))
    if config.freeze:
        frozen = optax.masked(optax.set_to_zero(), lambda params: is_frozen(params, config.freeze))
        parts = [frozen, *parts, frozen]
    optimizer = optax.chain(*parts)
    return lora(optimizer, config) if config.lora_rank else optimizer


def _direction(config):
    """Of a step: the momentum of SGD, or Adam's moments."""
    if config.optimizer == "sgd":
        return optax.trace(config.beta1, accumulator_dtype=config.moment_dtype)
    if config.bias_correction:
        return optax.scale_by_adam(config.beta1, config.beta2, config.epsilon, mu_dtype=config.moment_dtype)
    return scale_by_uncorrected_adam(config.beta1, config.beta2, config.epsilon, config.moment_dtype)


class AverageState(NamedTuple):
    """The memory of a moving average."""

    steps: Array  # averaged over
    average: PyTree  # of the parameters


def with_average(optimizer: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
    """An optimizer whose state also holds the exponential moving average of the parameters that it makes.

    Args:
      optimizer: of the parameters.
      decay: share of the average that each step keeps; in the beginning it is less, (1 + n) / (10 + n) after n steps,
        or the random first parameters would be remembered for long. 0: there is no average.
    Returns:
      The optimizer, whose state `averaged_params` takes the average out of; without a decay the given one.
    Source: Polyak and Juditsky 1992, https://doi.org/10.1137/0330046; the beginning as in
      `tf.train.ExponentialMovingAverage`.
    """
    if not decay:
        return optimizer

    def init(params):
        return AverageState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(updates, state, params=None):
        assert params is not None
        kept = jnp.minimum(decay, (1 + state.steps) / (10 + state.steps))
        after = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda old, new: old + (1 - kept).astype(old.dtype) * (new - old), state.average, after)
        return updates, AverageState(state.steps + 1, average)

    return optax.chain(optimizer, optax.GradientTransformation(init, update))


def training_optimizer(optimizer: OptimizerConfig, training: TrainingConfig) -> optax.GradientTransformation:
    """The optimizer of a run; its state holds the average of the parameters where the run keeps one."""
    return with_average(make_optimizer(optimizer, training.steps), training.ema_decay)


def averaged_params(opt: PyTree, params: PyTree, decay: float) -> PyTree:
    """The parameters that are scored and used: their average where there is one, else they themselves.

    Args:
      opt: state of an optimizer from `with_average`.
      params: that it changes.
      decay: as given there.
    """
    return opt[1].average if decay else params


def is_frozen(params: PyTree, pattern: str) -> PyTree[bool]:
    """True for the leaves whose path holds a match of the pattern.

    Raises:
      UserError: it matches none, or all.
    """
    found = jax.tree_util.tree_map_with_path(lambda path, _: bool(re.search(pattern, path_name(path))), params)
    if len(set(jax.tree.leaves(found))) == 1:
        which = "all parameters" if jax.tree.leaves(found)[0] else "no parameter"
        names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        raise UserError(f"--freeze={pattern} matches {which}; there are {', '.join(names[:3])}, ..., {names[-1]}")
    return found


def scale_by_layer(decay: float) -> optax.GradientTransformation:
    """Smaller steps the further a layer is from the head: decay^n, n layers below it.

    The head has n = 0, as has the pooler; of D layers the last has 1, the first D, the embeddings D + 1, as has a stem
    before them.

    Source: Howard and Ruder 2018, section 3.1, https://arxiv.org/abs/1801.06146; layers as in ELECTRA, Clark et al.
      2020, https://github.com/google-research/electra (model/optimization.py)
    """

    def init(params):
        del params
        return optax.EmptyState()

    def update(updates, state, params=None):
        del params
        paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(updates)]
        scanned = [
            x.shape[0] for path, x in jax.tree_util.tree_leaves_with_path(updates) if "/blocks/" in path_name(path)
        ]
        numbers = [int(match[1]) for path in paths if (match := re.search(r"/block_(\d+)/", path))]
        depth = scanned[0] if scanned else max(numbers, default=-1) + 1

        def scale(path, leaf):
            name = path_name(path)
            if "/blocks/" in name:
                factors = decay ** jnp.arange(depth, 0, -1, dtype=jnp.float32)
                return leaf * factors.reshape(-1, *(1,) * (leaf.ndim - 1))
            layer = re.search(r"/block_(\d+)/", name)
            below = depth - int(layer[1]) if layer else depth + 1 if re.search(r"(embeddings|stem)/", name) else 0
            return leaf * decay**below

        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformation(init, update)
