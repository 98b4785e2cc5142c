"""Images that a trained ViT is scored on: those of its run, or others with the same classes."""

import dataclasses
from collections.abc import Sequence

from core_jax.config import require
from vit_jax.image_sets import ImageExamples, require_readable
from vit_jax.image_transforms import View
from vit_jax.images_config import ImagesConfig
from vit_jax.picture_folders import class_folders, folder_pictures, part_folders
from vit_jax.presets import VitPretraining
from vit_jax.pretraining import read_images
from vit_jax.skipped_images import SkippedImages


def names_in_order(
    config: VitPretraining, classes: tuple[str, ...], data: str, data_split: str, data_dir: str
) -> tuple[str, ...]:
    """The names of a classifier's outputs: its own, or, where images know none of these, theirs in their order.

    Published models call classes otherwise than the folders of their images, whose order is that of the outputs.

    Args:
      config, classes, data, data_split, data_dir: as for `scored_images`.
    """
    scheme, _, place = data.partition(":")
    if scheme == "images" and place:
        folder, scored = part_folders(data, place)
        found = class_folders(data, scored or folder)
    else:
        found = read_images(dataclasses.replace(config, images=_chosen(config, data, data_split, data_dir))).classes
    return found if len(found) == len(classes) and not set(found) & set(classes) else classes


def _chosen(config: VitPretraining, data: str, data_split: str, data_dir: str) -> ImagesConfig:
    chosen = {"validation_split": data_split} if data.startswith("tfds:") else {}
    return dataclasses.replace(config.images, data=data, validation_data="", data_dir=data_dir, **chosen)


def scored_images(
    config: VitPretraining, classes: Sequence[str], data: str, data_split: str, data_dir: str
) -> ImageExamples:
    """The examples to score.

    Args:
      config: of the run.
      classes: of the run, in their order.
      data: images:DIR, of which all are scored, or its validation part where there is one; anything else as for
        training, of which the part to score on is taken; empty: the held-out images of the run.
      data_split: of tfds:
      data_dir: of tfds:
    Raises:
      UserError: they cannot be read, or have other classes.
    """
    images = config.images
    scheme, _, place = data.partition(":")
    if scheme == "images" and place:
        folder, scored = part_folders(data, place)
        view = View(config.model.height, config.model.width_of_image, config.model.channels)
        pictures = folder_pictures(data, scored or folder, tuple(classes))
        found = ImageExamples(pictures, images, view, config.training.seed, train=False, skipped=SkippedImages())
        require_readable(found, f"--data={data}", "to score")
        return found
    if data:
        images = _chosen(config, data, data_split, data_dir)
    found = read_images(dataclasses.replace(config, images=images))
    unknown = sorted(set(found.classes) - set(classes))
    require(
        found.classes == tuple(classes),
        f"--data={images.data} has other classes than the run"
        + (f": {', '.join(unknown[:5])}" if unknown else ", or in another order"),
    )
    assert isinstance(found.held_out, ImageExamples)
    # What could not be read of the images to train on is not of interest here.
    return dataclasses.replace(found.held_out, skipped=SkippedImages())
