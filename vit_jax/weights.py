"""Pretrained ViTs of `transformers` in and out, name by name."""

import dataclasses
import functools
import os
import pathlib
import types
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core_jax.config import require
from core_jax.errors import UserError
from core_jax.grid_positions import sincos_positions
from core_jax.model_folders import read_fields, read_labels, write_fields, write_folder
from core_jax.peer_names import check_tensors, from_peer, peer_name, peer_shape, to_peer
from core_jax.safetensors_files import Tensors, read_tensors, write_tensors
from core_jax.sharding import by_path, nested
from core_jax.transformer import unstack_layers
from vit_jax.config import VitConfig
from vit_jax.images_config import NORMALIZATIONS, Colours
from vit_jax.model import VitForClassification
from vit_jax.peer_config import KIND, family_of, from_peer_config, to_peer_config
from vit_jax.peer_names import current_hf_name, hf_table

PREPROCESSOR = "preprocessor_config.json"
HALVES, IMAGENET = NORMALIZATIONS["half"][0], NORMALIZATIONS["imagenet"]


@dataclasses.dataclass(frozen=True)
class PretrainedVit:
    """A ViT from elsewhere, or to go there.

    Attributes:
      config: of the unrolled model; `pooling` and `representation` as the parameters tell.
      params: in our names and shapes, float32 on the host: `vit`, and where it has them `representation`, `classifier`.
      labels: names of the classes, where they are known.
      mean: what is taken off each channel of an image (black 0, white 1) before the model sees it.
      deviation: what it is then divided by.
    """

    config: VitConfig
    params: dict[str, Any]
    labels: list[str] | None = None
    mean: Colours = HALVES
    deviation: Colours = HALVES

    @property
    def classes(self) -> int | None:
        """Outputs of the classifier, where there is one."""
        return len(self.params["classifier"]["dense"]["bias"]) if "classifier" in self.params else None


def read_hf(folder: str | os.PathLike) -> PretrainedVit:
    """Reads a ViT or DINOv2 as `transformers` saves it: config.json and model.safetensors (or shards of it).

    Args:
      folder: that holds them, and preprocessor_config.json where images are normalised otherwise than usual.
    Raises:
      UserError: a file is missing or damaged, the model is another, or its tensors are not those of its sizes: all that
        are missing, unknown or of another shape are listed.
    """
    folder = pathlib.Path(folder).expanduser()
    fields = read_fields(folder / "config.json", KIND)
    config = from_peer_config(fields, folder / "config.json")
    family: str = fields["model_type"]
    tensors = {current_hf_name(name, family): value for name, value in read_tensors(folder).items()}
    tensors.pop(f"{family}.embeddings.mask_token", None)  # of masked patches, which are not here
    classes = outputs(tensors.get("classifier.weight"))
    if classes and family != "vit":
        config = dataclasses.replace(config, pooling="token_and_mean")
    if f"{family}.pooler.dense.weight" in tensors and not classes:
        config = dataclasses.replace(config, representation=True)
    elif family == "vit":  # the peer classifies without it
        tensors = {name: value for name, value in tensors.items() if not name.startswith("vit.pooler.")}
    params = to_params(tensors, hf_table(family), parameter_shapes(config, classes), str(folder))
    labels = read_labels(fields, classes) if classes else None
    return PretrainedVit(config, params, labels, *_normalisation(folder, family))


def write_hf(folder: str | os.PathLike, model: PretrainedVit) -> None:
    """Writes a ViT that `transformers` opens: config.json, model.safetensors, preprocessor_config.json; all or nothing.

    Args:
      folder: to make.
      model: on the host or on devices, unrolled or scanned. Fixed positions are written as a table.
    Raises:
      UserError: `transformers` has no such model, or the folder is not empty.
    """
    folder = pathlib.Path(folder).expanduser()
    model = in_plain_layout(model)
    config, family = model.config, family_of(model.config)
    require(
        not (config.representation and model.classes),
        "`transformers` has no ViT with a tanh layer before its classifier: write npz:FILE",
    )
    require(
        model.classes is None or (config.pooling == "token_and_mean") == (family != "vit"),
        f"`transformers` does not classify such a model by --pooling={config.pooling}: leave the classifier out",
    )
    tensors = to_tensors(model.params, hf_table(family))
    if family != "vit":  # its class asks for one
        tensors[f"{family}.embeddings.mask_token"] = np.zeros((1, config.width), np.float32)
    if model.classes is None:  # as the class without a head names them
        tensors = {name.removeprefix(f"{family}."): value for name, value in tensors.items()}
    fields = to_peer_config(config, model.classes, model.labels)

    def write(temporary: pathlib.Path) -> None:
        write_fields(temporary / "config.json", fields)
        write_tensors(temporary, tensors)
        write_fields(temporary / PREPROCESSOR, _preprocessor(model))

    write_folder(folder, write)


@functools.cache
def parameter_shapes(config: VitConfig, classes: int | None) -> Mapping[str, tuple[int, ...]]:
    """The shape of every parameter of the unrolled model by its path; without classes there is no classifier."""
    # All layers are alike.
    model = VitForClassification(dataclasses.replace(config, scan_layers=False, depth=1), classes or 1)
    images = jax.ShapeDtypeStruct((1, config.height, config.width_of_image, config.channels), jnp.float32)
    shapes = by_path(jax.eval_shape(model.init, jax.random.key(0), images)["params"])
    found = {
        path.replace("/block_0/", f"/block_{i}/"): leaf.shape
        for path, leaf in shapes.items()
        if classes or not path.startswith("classifier/")
        for i in range(config.depth if "/block_0/" in path else 1)
    }
    return types.MappingProxyType(found)  # nobody may change what is kept for the next call


def to_params(
    tensors: Tensors, table: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], source: str
) -> dict[str, Any]:
    """Gives tensors our names and shapes.

    Args:
      tensors: by the names of the table.
      table: from our paths to their names.
      shapes: of our parameters, by path.
      source: named in errors.
    Raises:
      UserError: tensors are missing, unknown or of another shape; all are listed.
    """
    names = {path: peer_name(table, path) for path in shapes}
    check_tensors(tensors, {names[path]: peer_shape(path, shape) for path, shape in shapes.items()}, source, KIND)
    return nested({path: from_peer(path, tensors[names[path]], shape) for path, shape in shapes.items()})


def to_tensors(params: Mapping[str, Any], table: Mapping[str, str]) -> Tensors:
    """The inverse of `to_params`, of an unrolled model on the host."""
    values: dict[str, np.ndarray] = by_path(params)
    return {
        peer_name(table, path): to_peer(path, value, peer_shape(path, value.shape)) for path, value in values.items()
    }


def in_plain_layout(model: PretrainedVit) -> PretrainedVit:
    """The same model on the host, unrolled, its positions in a table: as other programs keep it."""
    config, params = model.config, model.params
    encoder = params["vit"]["encoder"]
    vit = {**params["vit"], "encoder": unstack_layers(encoder) if "blocks" in encoder else encoder}
    if config.positions == "sincos":
        table = np.pad(sincos_positions(*config.grid, config.width), ((int(config.class_token), 0), (0, 0)))
        vit["embeddings"] = {**vit["embeddings"], "position": table[None]}
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), {**params, "vit": vit})
    config = dataclasses.replace(config, positions="learned", scan_layers=False)
    return dataclasses.replace(model, config=config, params=params)


def pools_as_names_tell(config: VitConfig) -> bool:
    """Whether one who sees only the names of a model's tensors knows what stands for an image."""
    return config.pooling == ("token" if config.class_token else "mean") or config.pooling == "attention"


def outputs(weight: np.ndarray | None) -> int | None:
    """The classes of a classifier whose outputs come first; None where there is none."""
    return None if weight is None else len(weight) if weight.ndim else 1


def _normalisation(folder: pathlib.Path, family: str) -> tuple[Colours, Colours]:
    usual = (HALVES, HALVES) if family == "vit" else IMAGENET
    if not (folder / PREPROCESSOR).exists():
        return usual
    fields = read_fields(folder / PREPROCESSOR, KIND)
    if not fields.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, deviation = (fields.get(name, value) for name, value in zip(("image_mean", "image_std"), usual, strict=True))
    try:
        colours = tuple(map(float, mean)), tuple(map(float, deviation))
        return colours[0] * (3 // len(colours[0])), colours[1] * (3 // len(colours[1]))  # of grey all are alike
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{folder / PREPROCESSOR} cannot be read ({error}); expected numbers in image_mean and image_std"
        ) from error


def _preprocessor(model: PretrainedVit) -> dict[str, Any]:
    colours = 1 if model.config.channels == 1 else len(model.mean)
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": model.config.height, "width": model.config.width_of_image},
        "resample": 3,  # bicubic
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(model.mean[:colours]),
        "image_std": list(model.deviation[:colours]),
    }
