"""Images that a trained ViT is scored on: those of its run, or others with the same classes."""

import dataclasses
from collections.abc import Sequence

from core_jax.config import require
from vit_jax.image_sets import ImageExamples, require_readable
from vit_jax.image_transforms import View
from vit_jax.picture_folders import folder_pictures, part_folders
from vit_jax.presets import VitPretraining
from vit_jax.pretraining import read_images
from vit_jax.skipped_images import SkippedImages


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
        chosen = {"validation_split": data_split} if scheme == "tfds" else {}
        images = dataclasses.replace(images, data=data, validation_data="", data_dir=data_dir, **chosen)
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
