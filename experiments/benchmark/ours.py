"""Our side: the step that `experiments.pretrain` takes and the encoder's forward pass, on packed rows."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from bert_jax.model import BertForPretraining
from bert_jax.tasks import INPUTS, PACKED_INPUTS, initial_params, pretraining_loss, training_step
from core_jax.layers import in_compute_dtype
from core_jax.optimizers import make_optimizer
from core_jax.sharding import nested, parse_mesh, with_shardings
from core_jax.train import State, abstract_state
from experiments.benchmark.modes import Mode
from experiments.benchmark.workplace import Workplace


def load_rows(work: Workplace) -> list[dict[str, Any]]:
    """Our batches, of packed rows."""
    with np.load(work.rows_file) as stored:
        batches = nested(dict(stored))
    return [batches[str(number)] for number in range(len(batches))]


def count_useful(batch: dict[str, Any]) -> int:
    """Tokens without padding: what a rate counts."""
    return int((batch["segments"] > 0).sum())


@dataclasses.dataclass
class Ours:
    """One of our modes, ready to measure."""

    work: Workplace
    model: Any
    rows: list[dict[str, Any]]
    state: Any  # of training, or the parameters
    compute: Callable[..., Any]  # a step of (state, batch), or the pooled states of (params, batch)

    @classmethod
    def open(cls, mode: Mode, work: Workplace) -> "Ours":
        """Loads the weights and compiles."""
        config = work.config()
        model = BertForPretraining(dataclasses.replace(config.model, dtype=mode.dtype))
        params = jax.tree.map(jnp.asarray, nested(work.weights()))
        if work.task == "inference":
            return cls(work, model, load_rows(work), in_compute_dtype(params, mode.dtype), pooled_states(model))
        optimizer, state, shapes = start_training(config, params, initial_params(model))
        return cls(work, model, load_rows(work), state, training_step(model, optimizer, shapes, 1))

    def batches(self) -> dict[str, list[dict[str, Any]]]:
        """Our batches for each way to batch."""
        return {"packed": self.rows}

    def check(self) -> list[float]:
        """What must agree with the peer on the first batch: the loss without dropout, or the pooled states."""
        batch = self.rows[0]
        if self.work.task == "inference":
            states = np.asarray(self.compute(self.state, batch), np.float32)
            return states[batch["weights"]["nsp"] > 0].ravel().tolist()
        loss = jax.jit(pretraining_loss(self.model, train=False))
        return [float(loss(self.state.params, batch, jax.random.key(0))[0])]

    def warm_ups(self) -> list[dict[str, Any]]:
        """A batch of every shape."""
        return self.rows[:1]

    def count(self, batch: dict[str, Any]) -> int:
        """What a rate counts of a batch."""
        return count_useful(batch)

    def run(self, batch: dict[str, Any]) -> tuple[float, int]:
        """One step of training, or one forward pass; gives seconds and what was counted."""
        start = time.perf_counter()
        if isinstance(self.state, State):
            self.state, metrics = self.compute(self.state, batch)
            jax.block_until_ready((self.state, metrics))
        else:
            jax.block_until_ready(self.compute(self.state, batch))
        return time.perf_counter() - start, self.count(batch)


def start_training(
    config: Any, params: PyTree, initial: Callable[..., PyTree]
) -> tuple[optax.GradientTransformation, State, State]:
    """The optimizer, the state that training starts from, and its shapes on one device.

    Args:
      config: with optimizer and training.
      params: that training starts from.
      initial: key -> parameters of these shapes.
    """
    optimizer = make_optimizer(config.optimizer, config.training.steps)
    key = jax.random.key(config.training.seed)
    state = State(jnp.zeros((), jnp.int32), params, optimizer.init(params), key)
    return optimizer, state, with_shardings(abstract_state(initial, optimizer), parse_mesh("data:1"))


def pooled_states(model: BertForPretraining) -> Callable[..., Any]:
    """(params, batch) -> the pooled state of each pair, [B, S, D], and no less work than the peer's `BertModel`."""

    def compute(params, batch):
        names = [name for name in (*INPUTS, *PACKED_INPUTS) if name != "mlm_positions"]

        def encode(module, *inputs):
            return module.bert(*inputs)

        hidden, pooled = model.apply({"params": params}, *(batch[name] for name in names), method=encode)
        return pooled, hidden

    compiled = jax.jit(compute)
    return lambda params, batch: compiled(params, batch)[0]
