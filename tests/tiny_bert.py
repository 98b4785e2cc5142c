"""A BERT small enough to compile in seconds, batches for it, and meshes to put it on."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from bert_jax.config import BertConfig
from bert_jax.model import BertForPretraining
from bert_jax.tasks import initial_params, pretraining_loss
from core_jax.optimizers import make_optimizer
from core_jax.train import State, create_state, make_step
from core_jax.transformer import stack_layers
from tests.tiny_training import OPTIMIZER, STEPS, Setup, compiled, mesh_of, take_steps

CONFIG = BertConfig(
    width=16,
    depth=2,
    heads=4,
    mlp_width=32,
    vocab_size=32,
    maximum_positions=8,
    dropout=0.0,
    attention_dropout=0.0,
    initializer_range=0.1,  # larger than in real life: gradients well above rounding
    dtype="float32",
)
ROWS, LENGTH, PREDICTIONS = 32, 8, 3  # 8 devices x 4 parts divide the rows


def model(**changes) -> BertForPretraining:
    return BertForPretraining(dataclasses.replace(CONFIG, **changes))


def host_batch(step: int, rows: int = ROWS) -> dict:
    """A batch on the host, a function of the step; rows have between 0 and 3 tokens to predict."""
    random = np.random.default_rng(step)
    lengths = random.integers(3, LENGTH + 1, (rows, 1))
    wanted = random.integers(0, PREDICTIONS + 1, (rows, 1))
    integers = lambda high, *shape: random.integers(0, high, shape, dtype=np.int32)  # noqa: E731
    return {
        "tokens": integers(CONFIG.vocab_size, rows, LENGTH),
        "segments": (np.arange(LENGTH) < lengths).astype(np.int32),
        "types": integers(2, rows, LENGTH),
        "mlm_positions": integers(3, rows, PREDICTIONS),
        "mlm_labels": integers(CONFIG.vocab_size, rows, PREDICTIONS),
        "nsp_labels": integers(2, rows),
        "weights": {
            "mlm": (np.arange(PREDICTIONS) < wanted).astype(np.float32),
            "nsp": np.ones(rows, np.float32),
        },
    }


@functools.cache
def fresh_state(scan_layers: bool = False) -> State:
    """The state before the first step, on one device; scanned or not, the model is the same."""
    transformation = make_optimizer(OPTIMIZER, STEPS)
    if not scan_layers:
        return create_state(initial_params(model()), transformation, mesh_of("data:1"), seed=0)
    unrolled = fresh_state()
    params = change_layers(unrolled.params, stack_layers)
    return dataclasses.replace(unrolled, params=params, opt=transformation.init(params))


def change_layers(params: dict, change: Callable[[dict], dict]) -> dict:
    bert = params["bert"]
    return params | {"bert": bert | {"encoder": change(bert["encoder"])}}


def set_up(mesh_text: str, *, accumulation: int = 1, scan_layers: bool = False, dropout: float = 0.0) -> Setup:
    """A BERT with `fresh_state` on a mesh, and its compiled step."""
    bert = model(scan_layers=scan_layers, dropout=dropout, attention_dropout=dropout)
    step = make_step(pretraining_loss(bert, train=True), make_optimizer(OPTIMIZER, STEPS), accumulation)
    return compiled(mesh_text, fresh_state(scan_layers), step, host_batch)


def run(setup: Setup, steps: int) -> tuple[State, list[dict]]:
    """Takes the first steps; gives the state and each step's metrics on the host."""
    return take_steps(setup, steps, host_batch)
