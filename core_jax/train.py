"""The state of a run, the step that every task shares, and the only loop."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, PyTree

from core_jax import metrics as metrics_lib
from core_jax.losses import Ratio
from core_jax.sharding import BATCH_AXES, constrain, tree_shardings
from core_jax.stopwatch import Stopwatch

Metrics = dict[str, Ratio]
# A task: a pure function of parameters, batch and randomness to (scalar, {name: (sum, count)}). `batch["weights"]` is
# a dict of each loss term's weights; `batch["totals"]`, if there, their sums over the whole of which this is a part.
Loss = Callable[[PyTree, dict[str, Any], Key[Array, ""]], tuple[Float[Array, ""], Metrics]]


# What turns the whole global batch into the one that the loss sees, before it is computed in parts.
Preparation = Callable[[dict[str, Any], Key[Array, ""]], dict[str, Any]]

# Metrics of a task whose sums are amounts of work; what is logged is also how much of it was done in a second.
RATES = {
    "useful_positions": "useful_tokens_per_second",
    "useful_images": "images_per_second",
    "useful_seconds": "seconds_of_sound_per_second",
    "useful_flops": "model_flops_per_second",
}
PREPARATION = 2**32 - 1  # folded into a step's key for its preparation: no part of a batch has this number


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """All that a run carries from step to step. Fields are Any: shapes and shardings stand there too."""

    step: Any  # optimizer steps taken
    params: Any
    opt: Any  # the optimizer's state
    key: Any  # never changes: each step folds its own number in, so that a resumed run repeats itself


def abstract_state(init: Callable[[Key[Array, ""]], PyTree], optimizer: optax.GradientTransformation) -> State:
    """The shapes of a state that is not there yet."""
    return jax.eval_shape(_creator(init, optimizer), jax.random.key(0))


def create_state(
    init: Callable[[Key[Array, ""]], PyTree], optimizer: optax.GradientTransformation, mesh: Mesh, seed: int
) -> State:
    """A fresh state, born sharded: no device ever holds more than its part.

    Args:
      init: key -> parameters.
      optimizer: gives the state of its own.
      mesh: where it will live, by the rules of `core_jax.sharding`.
      seed: of the parameters and of all randomness in training.
    """
    shardings = tree_shardings(abstract_state(init, optimizer), mesh)
    with jax.set_mesh(mesh):
        return jax.jit(_creator(init, optimizer), out_shardings=shardings)(jax.random.key(seed))


def _creator(init, optimizer):
    def create(key):
        params_key, train_key = jax.random.split(key)
        params = init(params_key)
        return State(jnp.zeros((), jnp.int32), params, optimizer.init(params), train_key)

    return create


def make_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    accumulation_steps: int = 1,
    prepare: Preparation | None = None,
) -> Callable[[State, dict[str, Any]], tuple[State, Metrics]]:
    """Builds the step of any task; `compile_step` places it on a mesh.

    Args:
      loss: the task.
      optimizer: applied once a step, to the gradient of the whole global batch.
      accumulation_steps: parts that the batch is computed in, one after another. The result is that of one part.
      prepare: what is done with the whole batch before, such as mixing its examples with each other.
    Returns:
      (state, batch) -> (next state, metrics with `loss` and `gradient_norm`).
    """

    def step(state: State, batch: dict[str, Any]) -> tuple[State, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        if prepare is not None:
            batch = prepare(batch, jax.random.fold_in(key, PREPARATION))
        if accumulation_steps == 1:
            (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(state.params, batch, key)
        else:
            (value, metrics), gradients = _accumulate(loss, state.params, batch, key, accumulation_steps)
        updates, opt = optimizer.update(gradients, state.opt, state.params)
        one = jnp.ones(())
        metrics = metrics | {"loss": (value, one), "gradient_norm": (optax.tree.norm(gradients), one)}
        return State(state.step + 1, optax.apply_updates(state.params, updates), opt, state.key), metrics

    return step


def _accumulate(loss, params, batch, key, parts):
    """Value, metrics and gradient of the whole batch, computed part by part: exact, since parts divide by `totals`."""
    totals = jax.tree.map(jnp.sum, batch["weights"])

    def split(x):  # row r goes to part r % parts, so that every device keeps its own rows in each part
        x = jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1)
        return constrain(x, None, BATCH_AXES, *(None,) * (x.ndim - 2))

    def add_part(carry, part):
        index, rows = part
        out = jax.value_and_grad(loss, has_aux=True)(params, rows | {"totals": totals}, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, carry, out), None

    rows = jax.tree.map(split, batch)
    shapes = jax.eval_shape(jax.value_and_grad(loss, has_aux=True), params, jax.tree.map(lambda x: x[0], rows), key)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add_part, zeros, (jnp.arange(parts), rows))[0]


def compile_step(step: Callable, shardings: State) -> Callable[[State, dict[str, Any]], tuple[State, Metrics]]:
    """Jits a step: the old state's memory becomes the new one's, and the new one lies where the old one lay."""
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What the loop calls; every one gets the number of steps taken."""

    record: Callable[[int, dict[str, float]], None]  # training metrics of the last stretch
    evaluate: Callable[[int, State], object]
    save: Callable[[int, State], None]
    advance: Callable[[int], None]  # after each step, for a progress bar
    stopping: Callable[[], bool]  # True once somebody asked the run to end


@dataclasses.dataclass(frozen=True)
class Cadence:
    """After how many steps each thing is done; 0 is never."""

    log: int
    evaluate: int
    save: int


class NonFiniteLossError(ArithmeticError):
    """The loss became infinite or NaN; nothing of it was saved."""


def fit(
    state: State,
    step: Callable[[State, dict[str, Any]], tuple[State, Metrics]],
    batches: Iterator[dict[str, Any]],
    *,
    last_step: int,
    cadence: Cadence,
    hooks: Hooks,
    stopwatch: Stopwatch,
) -> State:
    """Trains from `state.step` to `last_step`, or until `hooks.stopping`; saves before it returns.

    Args:
      state: donated: use the returned one.
      step: from `compile_step`.
      batches: global batches, beginning with that of the next step.
      last_step: number of steps at which the run is done.
      cadence: when to log, evaluate and save.
      hooks: how to.
      stopwatch: where the time went.
    Returns:
      The last state.
    Raises:
      NonFiniteLossError: at the next log or save after it happened.
    """
    number, stretch, previous, saved = int(state.step), [], None, int(state.step)
    while number < last_step and not hooks.stopping():
        batch = stopwatch.next_batch(batches, running=previous)
        with stopwatch.span("compile" if previous is None else "step"):
            state, metrics = step(state, batch)
            # Dispatch is asynchronous. Waiting for the step before keeps one step queued, so that the devices never
            # idle between steps and the host never runs far ahead of them.
            jax.block_until_ready(previous if previous is not None else metrics)
        previous, number = metrics, number + 1
        stretch.append(metrics)
        hooks.advance(number)
        last = number == last_step
        if number % cadence.log == 0 or last:
            hooks.record(number, _summarise(number, stretch, stopwatch))
            stretch = []
        if (cadence.save and number % cadence.save == 0) or last:
            _save(number, state, metrics, hooks, stopwatch)
            saved = number
        if cadence.evaluate and number % cadence.evaluate == 0 and not last:
            _evaluate(number, state, metrics, hooks, stopwatch)
    if number > saved:
        _save(number, state, previous, hooks, stopwatch)
    return state


def _finish(metrics, stopwatch):
    """Waits for the step that still runs, so that its time is not counted as that of what follows."""
    with stopwatch.span("step"):
        jax.block_until_ready(metrics)


def _evaluate(number, state, metrics, hooks, stopwatch):
    _finish(metrics, stopwatch)
    with stopwatch.span("evaluation"):
        hooks.evaluate(number, state)


def _save(number, state, metrics, hooks, stopwatch):
    _finish(metrics, stopwatch)
    with stopwatch.span("checkpoint"):
        _require_finite(number, metrics)
        hooks.save(number, state)


def _summarise(number, stretch, stopwatch):
    """Means over a stretch of steps, and its rates."""
    _finish(stretch[-1], stopwatch)
    stretch = jax.device_get(stretch)
    _require_finite(number, stretch[-1])
    values, seconds = metrics_lib.means(stretch), stopwatch.lap()
    values["steps_per_second"] = len(stretch) / seconds
    for name, rate in RATES.items():
        if name in values:
            values[rate] = sum(float(metrics[name][0]) for metrics in stretch) / seconds
    return values


def _require_finite(number, metrics):
    for name in ("loss", "gradient_norm"):  # a gradient that is not finite spoils the parameters one step earlier
        value = float(np.asarray(metrics[name][0]))
        if not math.isfinite(value):
            raise NonFiniteLossError(
                f"the {name.replace('_', ' ')} became {value} by step {number}; the last checkpoint is from before it: "
                "try a lower --learning_rate or more --warmup_steps"
            )
