"""A folder of checkpoints of a small state, to save, to restore and to damage."""

import dataclasses
import functools
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np

from core_jax.checkpoints import Checkpoints
from core_jax.config import OptimizerConfig
from core_jax.optimizers import make_optimizer
from core_jax.sharding import tree_shardings, with_shardings
from core_jax.train import State, abstract_state, compile_step, create_state, make_step
from tests.tiny_training import mesh_of

IDENTITY = {"vocabulary": "a hash"}
OPTIMIZER = make_optimizer(OptimizerConfig(warmup_steps=1), 100)


def init(key):
    table = jax.random.normal(key, (64, 32))
    return {"token": {"embedding": table}, "mlp": {"up": {"kernel": table[:32] + 1, "bias": jnp.zeros(32)}}}


def loss(params, batch, key):
    hidden = params["token"]["embedding"] @ params["mlp"]["up"]["kernel"] + params["mlp"]["up"]["bias"][None]
    value = jnp.mean((hidden - batch["shift"] - jax.random.normal(key)) ** 2)
    return value, {}


def abstract_on(mesh):
    return with_shardings(abstract_state(init, OPTIMIZER), mesh_of(mesh))


@functools.cache
def step_on(mesh):
    return compile_step(make_step(loss, OPTIMIZER), tree_shardings(abstract_on(mesh), mesh_of(mesh)))


def train(state, steps, mesh="data:8"):
    with jax.set_mesh(mesh_of(mesh)):
        for number in range(steps):
            state, _ = step_on(mesh)(state, {"shift": jnp.float32(number)})
    return state


@functools.cache
def first_state():
    return create_state(init, OPTIMIZER, mesh_of("data:8"), seed=0)


def fresh():
    """The state before the first step; a copy, for the step takes it."""
    return jax.tree.map(lambda leaf: leaf.copy(), first_state())


def on_host(state):
    """A real copy: on CPU a view would change with the donated buffer."""
    fields = dataclasses.replace(state, key=jax.random.key_data(state.key))
    return jax.tree.map(lambda leaf: np.array(leaf), fields)


def assert_same_bits(found, expected):
    found = on_host(found) if isinstance(found, State) else found
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ours.tobytes() == theirs.tobytes()


class Folder:
    """A checkpoint folder and what was reported about it."""

    def __init__(self, workdir, keep=3):
        self.workdir, self.path, self.keep, self.reports = workdir, workdir / "checkpoints", keep, []

    def open(self, **identity):
        return Checkpoints(self.path, keep=self.keep, identity=IDENTITY | identity, report=self.reports.append)

    def save(self, *states):
        checkpoints = self.open()
        for state in states:
            checkpoints.save(int(state.step), state)
        checkpoints.close()

    def restore(self, mesh="data:8", **identity):
        checkpoints = self.open(**identity)
        try:
            return checkpoints.restore_newest(abstract_on(mesh))
        finally:
            checkpoints.close()

    def set_aside(self):
        damaged = self.workdir / "damaged_checkpoints"
        return sorted(path.name for path in damaged.iterdir()) if damaged.exists() else []

    def copy_to(self, workdir):
        """The same checkpoints in another work folder, where they may be changed."""
        shutil.copytree(self.path, workdir / "checkpoints")
        return Folder(workdir)


def contents(path):
    return {file: file.is_file() and file.read_bytes() for file in sorted(pathlib.Path(path).rglob("*"))}


@functools.cache
def two_checkpoints(workdir):
    """A folder with checkpoints 1 and 2, and the two states on the host; not to be changed."""
    folder, states, state = Folder(workdir), [], fresh()
    for _ in range(2):
        state = train(state, 1)
        folder.save(state)
        states.append(on_host(state))
    return folder, states
