"""What --init names: the work folder of a run whose parameters are to start from."""

import os
from collections.abc import Callable

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from core_jax.checkpoints import check_saved
from core_jax.errors import UserError
from core_jax.sharding import by_path, nested, tree_shardings
from core_jax.transformer import stack_layers, unstack_layers
from core_jax.workdir import read_config
from vit_jax.model import VitForClassification
from vit_jax.presets import VitPretraining
from vit_jax.pretraining import open_trained

HEAD = "classifier/"  # of another number of classes, or of others: drawn fresh


def check_init(init: str) -> None:
    """Raises for an --init that cannot be started from, before any image is read.

    Raises:
      UserError: it is no work folder of a ViT with a checkpoint.
    """
    if init:
        read_config(init, VitPretraining)
        check_saved(os.path.join(init, "checkpoints"))


def load_init(
    init: str,
    model: VitForClassification,
    classes: tuple[str, ...],
    fresh: PyTree,
    mesh: Mesh,
    report: Callable[[str], None],
) -> PyTree:
    """The parameters to start from, sharded over a mesh.

    Args:
      init: a work folder.
      model: whose parameters are wanted.
      classes: their names.
      fresh: random parameters of the model on the mesh; its classifier is used where the classes are others.
      mesh: where they go.
      report: is told which parts are fresh.
    Raises:
      UserError: there are none, or they are of another architecture.
    """
    start = open_trained(init, mesh, report)
    params = start.params
    if start.model.config.scan_layers != model.config.scan_layers:
        change = stack_layers if model.config.scan_layers else unstack_layers
        params = params | {"vit": params["vit"] | {"encoder": change(params["vit"]["encoder"])}}
    theirs, ours = by_path(params), by_path(fresh)
    same = start.classes == classes and start.model.classes == model.classes
    if not same:
        theirs = {path: leaf for path, leaf in theirs.items() if not path.startswith(HEAD)}
        theirs |= {path: leaf for path, leaf in ours.items() if path.startswith(HEAD)}
        report(f"{init} has other classes: the classifier is drawn fresh")
    sizes = ({path: leaf.shape for path, leaf in leaves.items()} for leaves in (theirs, ours))
    found, wanted = sizes
    wrong = [
        f"  {path}: {found.get(path, 'missing')} there, {wanted.get(path, 'not')} in this model"
        for path in sorted(found.keys() | wanted.keys())
        if found.get(path) != wanted.get(path)
    ]
    if wrong:
        raise UserError(f"--init={init} is of another architecture:\n" + "\n".join(wrong[:10]))
    return jax.device_put(nested(theirs), tree_shardings(fresh, mesh))
