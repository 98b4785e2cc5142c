"""A ViT small enough to compile in seconds, batches for it, and the flags of a run of seconds."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from core_jax.optimizers import make_optimizer
from core_jax.train import State, create_state, make_step
from core_jax.transformer import stack_layers
from tests.tiny_training import OPTIMIZER, STEPS, Setup, compiled, mesh_of, take_steps
from vit_jax.config import VitConfig
from vit_jax.mixing import make_mixing
from vit_jax.model import VitForClassification
from vit_jax.supervision import SupervisionConfig
from vit_jax.tasks import initial_params, supervised_loss

CONFIG = VitConfig(
    width=16, depth=2, heads=4, mlp_width=32, image_size="4x6", channels=1, patch_size=2, dtype="float32"
)
CLASSES, ROWS = 7, 32
PLAIN = SupervisionConfig()
FLAGS = {
    "mesh": "data:1",
    "width": 16,
    "depth": 2,
    "heads": 2,
    "mlp_width": 32,
    "global_batch_size": 8,
    "warmup_steps": 5,
    "steps": 24,
    "log_every": 8,
    "checkpoint_every": 8,
    "evaluate_every": 16,
    "data_workers": 0,
}


def model(**changes) -> VitForClassification:
    return VitForClassification(dataclasses.replace(CONFIG, **changes), CLASSES)


def host_batch(step: int, rows: int = ROWS) -> dict:
    """A batch on the host, a function of the step."""
    random = np.random.default_rng(step)
    return {
        "images": random.uniform(-1, 1, (rows, CONFIG.height, CONFIG.width_of_image, 1)).astype(np.float32),
        "labels": random.integers(0, CLASSES, rows, dtype=np.int32),
        "weights": {"classes": np.ones(rows, np.float32)},
    }


def random_params(**changes):
    """Parameters of `model(**changes)`, none of them 0 and scales near 1, as they are after training."""
    random, shapes = np.random.default_rng(0), jax.eval_shape(initial_params(model(**changes)), jax.random.key(0))

    def draw(path, leaf):
        values = random.normal(path[-1].key == "scale", 0.2, leaf.shape)
        return jnp.asarray(values, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def fresh_state(scan_layers: bool = False) -> State:
    """The state before the first step, on one device; scanned or not, the model is the same."""
    transformation = make_optimizer(OPTIMIZER, STEPS)
    if not scan_layers:
        return create_state(lambda key: random_params(), transformation, mesh_of("data:1"), seed=0)
    unrolled = fresh_state()
    params = change_layers(unrolled.params, stack_layers)
    return dataclasses.replace(unrolled, params=params, opt=transformation.init(params))


def change_layers(params: dict, change: Callable[[dict], dict]) -> dict:
    vit = params["vit"]
    return params | {"vit": vit | {"encoder": change(vit["encoder"])}}


def set_up(
    mesh_text: str,
    *,
    accumulation: int = 1,
    scan_layers: bool = False,
    stochastic_depth: float = 0.0,
    supervision: SupervisionConfig = PLAIN,
) -> Setup:
    """A ViT with `fresh_state` on a mesh, and its compiled step."""
    vit = model(scan_layers=scan_layers, stochastic_depth=stochastic_depth)
    loss, mixing = supervised_loss(vit, supervision, train=True), make_mixing(supervision.mixup, supervision.cutmix)
    step = make_step(loss, make_optimizer(OPTIMIZER, STEPS), accumulation, mixing)
    return compiled(mesh_text, fresh_state(scan_layers), step, host_batch)


def run(setup: Setup, steps: int) -> tuple[State, list[dict]]:
    """Takes the first steps; gives the state and each step's metrics on the host."""
    return take_steps(setup, steps, host_batch)


def flags(workdir: pathlib.Path, **changes: object) -> list[str]:
    """The command line of a tiny run on digits."""
    values = {"workdir": workdir} | FLAGS | changes
    return ["vit-tiny", *(f"--{name}={value}" for name, value in values.items())]
