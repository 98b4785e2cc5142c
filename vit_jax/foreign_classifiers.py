"""ViTs of other programs that tell classes apart, used as those that were trained here."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from core_jax.config import require
from core_jax.model_folders import read_fields
from core_jax.sharding import by_path, place_like
from vit_jax.foreign_weights import split_place
from vit_jax.image_transforms import RESAMPLING
from vit_jax.images_config import ImagesConfig
from vit_jax.model import VitForClassification
from vit_jax.peer_config import size_text
from vit_jax.position_tables import resize_model
from vit_jax.presets import FINETUNING
from vit_jax.pretraining import Trained, open_trained
from vit_jax.starting_weights import Start, open_start
from vit_jax.tasks import initial_params
from vit_jax.weights import KIND, PREPROCESSOR

INTERPOLATIONS: dict[Any, Any] = {method.value: name for name, method in RESAMPLING.items()}  # by Pillow's numbers


def open_classifier(place: str, mesh: Mesh, report: Callable[[str], None]) -> Trained:
    """Reads the work folder of a run, or a ViT of another program with its classifier and how it is scored.

    Args:
      place: a work folder, hf:DIR, npz:FILE or timm:FILE.
      mesh: where the parameters go.
      report: is told about checkpoints that cannot be used.
    Raises:
      UserError: nothing is there that tells classes apart, or it cannot be read.
    """
    if not split_place(place)[0]:
        return open_trained(place, mesh, report)
    start = open_start(place, mesh, report)
    require(
        "classifier" in start.params,
        f"{place} has no classifier: type python -m experiments.finetune --task=image_classification --init={place}",
    )
    images, size = protocol_of(place, start)
    vit, params = resize_model(start.config, start.params, size, start.method)
    config = dataclasses.replace(FINETUNING, preset="ViT", init=place, model=vit, images=images)
    outputs = len(params["classifier"]["dense"]["bias"])
    classes = start.classes or tuple(f"LABEL_{index}" for index in range(outputs))
    model = VitForClassification(vit, outputs)
    shapes = jax.eval_shape(initial_params(model), jax.random.key(0))
    return Trained(config, model, classes, place_like(shapes, by_path(params), mesh))


def protocol_of(place: str, start: Start) -> tuple[ImagesConfig, str]:
    """How images are scored, as the preprocessor_config.json of hf:DIR says, and their size in pixels.

    Of other files, which do not say, the whole image is seen, bicubic.
    """
    images, size = ImagesConfig(normalization=start.normalization), start.config.image_size
    kind, path = split_place(place)
    if kind != "hf" or not (path / PREPROCESSOR).exists():
        return images, size
    fields = read_fields(path / PREPROCESSOR, KIND)
    interpolation = INTERPOLATIONS.get(fields.get("resample"), images.interpolation)
    resized, cut = _sides(fields.get("size")), _sides(fields.get("crop_size"))
    if fields.get("do_center_crop") and cut:
        shorter = resized.get("shortest_edge") or min(resized.values(), default=0)
        return dataclasses.replace(images, interpolation=interpolation, eval_resize=shorter), _size_of(cut)
    return dataclasses.replace(images, interpolation=interpolation), _size_of(resized) or size


def _sides(size: Any) -> dict[str, int]:
    """Older files have a number for both sides."""
    if isinstance(size, int):
        return {"height": size, "width": size}
    return {name: int(side) for name, side in size.items()} if isinstance(size, dict) else {}


def _size_of(sides: dict[str, int]) -> str:
    return size_text((sides["height"], sides["width"])) if {"height", "width"} <= sides.keys() else ""
