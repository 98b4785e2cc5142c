"""What a run has trained, read from its work folder."""

import os
from collections.abc import Callable

import jax
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from core_jax.checkpoints import restore_params
from core_jax.config import OptimizerConfig, TrainingConfig
from core_jax.optimizers import training_optimizer
from core_jax.sharding import with_shardings
from core_jax.train import abstract_state


def trained_params(
    workdir: epath.PathLike,
    init: Callable[[Key[Array, ""]], PyTree],
    optimizer: OptimizerConfig,
    training: TrainingConfig,
    mesh: Mesh,
    *,
    identity: dict[str, str],
    report: Callable[[str], None],
) -> PyTree:
    """The parameters of a work folder's newest checkpoint, sharded over a mesh; their average where the run has one.

    Args:
      workdir: of the run.
      init: key -> fresh parameters of its model.
      optimizer, training: of its configuration.
      mesh: where the parameters go.
      identity: what the checkpoint must belong to beside its shapes.
      report: is told about checkpoints that cannot be used.
    Raises:
      UserError: there are none, or they belong to something else.
    """
    shapes = with_shardings(jax.eval_shape(init, jax.random.key(0)), mesh)
    opt = None
    if training.ema_decay:
        opt = with_shardings(abstract_state(init, training_optimizer(optimizer, training)), mesh).opt
    folder = os.path.join(workdir, "checkpoints")
    return restore_params(folder, shapes, identity=identity, report=report, abstract_opt=opt)
