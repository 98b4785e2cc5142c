"""A BERT small enough to compile in seconds, batches for it, and meshes to put it on."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.config import BertConfig
from bert_jax.model import BertForPretraining
from bert_jax.tasks import initial_params, pretraining_loss
from core_jax.config import OptimizerConfig
from core_jax.optimizers import make_optimizer
from core_jax.sharding import global_batch, parse_mesh, tree_shardings
from core_jax.train import State, compile_step, create_state, make_step
from core_jax.transformer import stack_layers

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
MESHES = ("data:1", "data:8", "data:2,fsdp:4", "data:2,tensor:2,fsdp:2")
ROWS, LENGTH, PREDICTIONS = 32, 8, 3  # 8 devices x 4 parts divide the rows
STEPS = 20  # of the optimizer's schedule
# The epsilon is large, or Adam would turn the rounding errors of gradients near 0 into whole steps.
OPTIMIZER = OptimizerConfig(learning_rate=0.05, warmup_steps=1, epsilon=1e-2)
# Compiles in a quarter of the time.
QUICK: dict[str, bool | int | str | float] = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
}


def model(**changes) -> BertForPretraining:
    return BertForPretraining(dataclasses.replace(CONFIG, **changes))


def mesh_of(text: str) -> Mesh:
    """A mesh over all devices; `data:1` over the first alone."""
    return parse_mesh(text, devices=jax.devices()[:1] if text == "data:1" else None)


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


@dataclasses.dataclass(frozen=True)
class Setup:
    """All that is needed to train on one mesh."""

    mesh: Mesh
    shardings: State
    state: State
    step: Callable[[State, dict], tuple[State, dict]]


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
    mesh, state = mesh_of(mesh_text), fresh_state(scan_layers)
    shardings = tree_shardings(state, mesh)
    state = jax.device_put(jax.tree.map(lambda leaf: leaf.copy(), state), shardings)  # the step may take the copy
    step = make_step(pretraining_loss(bert, train=True), make_optimizer(OPTIMIZER, STEPS), accumulation)
    with jax.set_mesh(mesh):
        jitted: Any = compile_step(step, shardings)
        compiled = jitted.lower(state, global_batch(host_batch(0), mesh))
    return Setup(mesh, shardings, state, compiled.compile(compiler_options=QUICK))


def run(setup: Setup, steps: int) -> tuple[State, list[dict]]:
    """Takes the first steps; gives the state and each step's metrics on the host."""
    state, seen = setup.state, []
    with jax.set_mesh(setup.mesh):
        for number in range(steps):
            state, metrics = setup.step(state, global_batch(host_batch(number), setup.mesh))
            seen.append(jax.device_get(metrics))
    return state, seen
