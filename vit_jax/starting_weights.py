"""What --init names: a work folder, or a ViT of another program: hf:DIR, npz:FILE or timm:FILE."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from core_jax.checkpoints import check_saved
from core_jax.config import adopt_fields, require
from core_jax.errors import UserError
from core_jax.sharding import by_path, place_like
from core_jax.trained import trained_params
from core_jax.transformer import stack_layers, unstack_layers
from core_jax.workdir import read_config
from vit_jax.config import VitConfig
from vit_jax.foreign_weights import UNSAID, method_of, options_of, read_foreign, split_place
from vit_jax.images_config import NORMALIZATIONS, Normalization
from vit_jax.mae import MAE_IDENTITY, MaskedAutoencoder, initial_mae_params
from vit_jax.model import VitForClassification
from vit_jax.position_tables import Method, resize_model
from vit_jax.presets import VitPretraining
from vit_jax.pretraining import open_trained

# Of a checkpoint; the other fields of a model say how it is trained and computed, and how large its images are.
ARCHITECTURE = (
    *("width", "depth", "heads", "mlp_width", "norm", "norm_epsilon", "gelu", "layer_scale", "qk_norm"),
    *("stem", "stem_width", "stem_epsilons", "channels", "patch_size", "positions"),
    *("class_token", "registers", "pooling"),
)
HEADS = ("representation", "classifier")  # parts that may be drawn fresh, or left out


@dataclasses.dataclass(frozen=True)
class Start:
    """A ViT to start from.

    Attributes:
      config: of the model.
      params: `vit`, and `representation` and `classifier` where it has them; scanned or not, as `config` says.
      classes: names of the classifier's classes, where they are known.
      normalization: of the images that it has seen.
      method: that interpolates its positions.
    """

    config: VitConfig
    params: PyTree
    classes: tuple[str, ...] | None
    normalization: Normalization
    method: Method = "bicubic"


def open_start(init: str, mesh: Mesh, report: Callable[[str], None]) -> Start:
    """Reads what --init names.

    Raises:
      UserError: it is not there, damaged, or no ViT.
    """
    if split_place(init)[0]:
        return _open_foreign(init)
    config = read_config(init, VitPretraining)
    if config.objective == "mae":
        return _open_encoder(init, config, mesh, report)
    run = open_trained(init, mesh, report)
    return Start(run.model.config, run.params, run.classes, run.config.images.normalization)


def _open_foreign(init: str) -> Start:
    """A ViT of another program, on the host."""
    found = read_foreign(init)
    colours = found.mean, found.deviation
    known: dict[Any, Normalization] = {theirs: name for name, theirs in NORMALIZATIONS.items()}
    normalization = known.get(colours)
    if normalization is None:
        raise UserError(
            f"{init} was trained on images less {found.mean}, by {found.deviation}: only those less one half, and "
            "those less the mean of ImageNet's colours are known here"
        )
    classes = tuple(found.labels) if found.labels else None
    return Start(found.config, found.params, classes, normalization, method_of(init, found.config))


def _open_encoder(init: str, config: VitPretraining, mesh: Mesh, report: Callable[[str], None]) -> Start:
    """What a masked autoencoder has learnt, without its decoder."""
    fresh = initial_mae_params(MaskedAutoencoder(config.model, config.mae))
    recipe = config.optimizer, config.training
    params = trained_params(init, fresh, *recipe, mesh, identity=MAE_IDENTITY, report=report)
    return Start(config.model, {"vit": params["vit"]}, None, config.images.normalization)


def architecture_of(init: str) -> tuple[VitConfig, Normalization]:
    """The model that --init names, and how its images are normalised."""
    if split_place(init)[0]:
        start = _open_foreign(init)
        return start.config, start.normalization
    config = _read_config(init)
    return config.model, config.images.normalization


def _read_config(init: str) -> VitPretraining:
    known = ":" not in init or os.path.exists(init)
    require(known, f"--init={init}: expected hf:DIR, npz:FILE, timm:FILE, or the work folder of a run")
    return read_config(init, VitPretraining)


def adopt_architecture(config: VitPretraining, report: Callable[[str], None]) -> VitPretraining:
    """The configuration with the sizes of what --init names; images stay as large as they are to be.

    Args:
      config: from the command line.
      report: is told what differed.
    Raises:
      UserError: there is no such ViT, or it does not go with the rest.
    """
    if not config.init:
        return config
    theirs, normalization = architecture_of(config.init)
    if split_place(config.init)[0] == "timm" and "heads" not in options_of(config.init):
        report(f"{config.init} does not tell its heads: {theirs.heads} are taken; to say otherwise add ?heads=NUMBER")
    model = {name: getattr(theirs, name) for name in ARCHITECTURE}
    return adopt_fields(config, {"model": model, "images": {"normalization": normalization}}, report)


def check_init(init: str) -> None:
    """Raises for an --init that cannot be started from, before any image is read.

    Raises:
      UserError: it is no ViT of another program, and no work folder of a ViT with a checkpoint.
    """
    if init and not split_place(init)[0]:  # another program's was read for its sizes
        _read_config(init)
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
      init: what `open_start` reads.
      model: whose parameters are wanted; a learned position table is interpolated to the size of its images.
      classes: their names.
      fresh: random parameters of the model on the mesh; of the classifier where the classes are others, and of the
        layer before it where there was none.
      mesh: where they go.
      report: is told what is fresh, and what is not used.
    Raises:
      UserError: there are none, or they are of another architecture.
    """
    start = open_start(init, mesh, report)
    if start.config.grid != model.config.grid and start.config.positions == "learned":
        report(f"{init} is for images of {start.config.image_size} pixels: its positions are interpolated")
        if _may_be_its_own_size(init, start.config, model.config):
            report(f"if its images were of {model.config.image_size}, type {init}?image_size={model.config.image_size}")
    _, params = resize_model(start.config, start.params, model.config.image_size, start.method)
    if start.config.scan_layers != model.config.scan_layers:
        change = stack_layers if model.config.scan_layers else unstack_layers
        params = params | {"vit": params["vit"] | {"encoder": change(params["vit"]["encoder"])}}
    if start.classes != classes or by_path(params).get("classifier/dense/bias", np.zeros(0)).size != model.classes:
        params = {name: value for name, value in params.items() if name != "classifier"}
    unused = [name for name in params if name in HEADS and name not in fresh]
    lacking = [name for name in HEADS if name in fresh and name not in params]
    for names, verb in ((unused, "not used"), (lacking, "drawn fresh")):
        if names:
            report(f"{verb}: {', '.join(names)}")
    kept = {name: value for name, value in params.items() if name in fresh}
    theirs = by_path(kept | {name: fresh[name] for name in lacking})
    _check_shapes(init, theirs, by_path(fresh))
    return place_like(fresh, theirs, mesh)


def _may_be_its_own_size(init: str, theirs: VitConfig, ours: VitConfig) -> bool:
    """Whether a file that does not tell its grid, and is read as a square, has as many patches as are wanted."""
    untold = split_place(init)[0] in UNSAID and "image_size" not in options_of(init)
    return untold and theirs.grid[0] * theirs.grid[1] == ours.grid[0] * ours.grid[1]


def _check_shapes(init: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    found, wanted = ({path: leaf.shape for path, leaf in leaves.items()} for leaves in (theirs, ours))
    wrong = [
        f"  {path}: {found.get(path, 'missing')} there, {wanted.get(path, 'not')} in this model"
        for path in sorted(found.keys() | wanted.keys())
        if found.get(path) != wanted.get(path)
    ]
    if wrong:
        raise UserError(f"--init={init} is of another architecture:\n" + "\n".join(wrong[:10]))
