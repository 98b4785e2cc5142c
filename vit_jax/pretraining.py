"""From a configuration to everything that training, scoring and predicting need: images, model and parameters.

Axes: K classes.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Float64, Int64, PyTree

from core_jax.atomic_files import write_atomically
from core_jax.config import require
from core_jax.data import Examples, evaluation_batches
from core_jax.distributed import first_decides
from core_jax.errors import UserError
from core_jax.family import Evaluated, Evaluation
from core_jax.metrics import means
from core_jax.trained import trained_params
from core_jax.workdir import read_config
from vit_jax.image_pictures import samples_picture
from vit_jax.image_sets import ImageSet, open_image_set
from vit_jax.image_transforms import training_dtype
from vit_jax.images_config import Normalization
from vit_jax.model import VitForClassification
from vit_jax.packed_images import PackedImages, pack
from vit_jax.presets import VitPretraining
from vit_jax.rows_config import row_layout
from vit_jax.skipped_images import SkippedImages
from vit_jax.tasks import Scoring, initial_params, make_scoring

CLASSES_FILE = "classes.json"  # of a work folder: the names, in the order of the labels
SAMPLES = "samples.png"  # of a work folder: the first images, as the model sees them in training
SKIPPED = "skipped_images"  # folder of a work folder with a note on each image that could not be read
KNOWN_CLASSES = {"digits": 10, "fashion_mnist": 10, "tfds:cifar10": 10, "tfds:cifar100": 100}  # of --data
MOST_KNOWN = 1000  # classes of ImageNet, which other data is taken to have where it cannot be looked at


def open_images(config: VitPretraining, workdir: str) -> ImageSet:
    """The images of a run; the names of their classes are kept in the work folder, and a picture of the first images.

    Raises:
      UserError: they cannot be read, or have more classes than the classifier.
    """
    images = read_images(config, os.path.join(workdir, SKIPPED))
    found, wanted = len(images.classes), config.supervision.classes
    require(
        not wanted or found <= wanted,
        f"--classes={wanted}: --data={config.images.data} has {found} classes; leave --classes out, or use {found}",
    )
    text = json.dumps(list(images.classes), indent=0, ensure_ascii=False) + "\n"
    folder, look = epath.Path(workdir), {"normalization": config.images.normalization, "seed": config.training.seed}
    samples = images.train.images if isinstance(images.train, PackedImages) else images.train

    def keep() -> None:
        if not (folder / SAMPLES).exists():
            samples_picture(folder / SAMPLES, samples, images.classes, **look)
        write_atomically(folder / CLASSES_FILE, text)

    first_decides(keep)
    return images


def read_images(config: VitPretraining, skipped: str = "") -> ImageSet:
    """The images that a configuration names, as its model sees them; those that are skipped are noted in a folder."""
    model = config.model
    size = {"height": model.height, "width": model.width_of_image, "channels": model.channels}
    found = open_image_set(config.images, **size, seed=config.training.seed, skipped=SkippedImages(skipped))
    return pack(found, row_layout(model, config.rows)) if config.rows.packing else found


def read_classes(workdir: str) -> tuple[str, ...]:
    """The names of the classes of a run.

    Raises:
      UserError: they are not there.
    """
    path = epath.Path(workdir) / CLASSES_FILE
    try:
        return tuple(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); expected the names that a run keeps there") from error


def build_model(config: VitPretraining, classes: int) -> VitForClassification:
    """The model of a run whose data has so many classes."""
    supervision = config.supervision
    return VitForClassification(config.model, supervision.classes or classes, supervision.head_bias)


def expected_classes(config: VitPretraining) -> int:
    """How many classes the data probably has, without looking at it."""
    return config.supervision.classes or KNOWN_CLASSES.get(config.images.data, MOST_KNOWN)


def batch_shapes(config: VitPretraining) -> dict[str, Any]:
    """Shapes and dtypes of the global batch of a run."""
    model, rows, pixels = config.model, config.training.global_batch_size, training_dtype(config.images)

    def shape(*sizes, dtype=jnp.float32):
        return jax.ShapeDtypeStruct((rows, *sizes), dtype)

    def labelled(*images):
        return {"labels": shape(*images, dtype=jnp.int32), "weights": {"classes": shape(*images)}}

    if not config.rows.packing:
        return {"images": shape(model.height, model.width_of_image, model.channels, dtype=pixels), **labelled()}
    layout = row_layout(model, config.rows)
    return {
        "patches": shape(layout.length, layout.patch_size**2 * layout.channels, dtype=pixels),
        **dict.fromkeys(("segments", "front"), shape(layout.length, dtype=jnp.int32)),
        **dict.fromkeys(("places", "grids"), shape(layout.length, 2, dtype=jnp.int32)),
        "starts": shape(layout.images, dtype=jnp.int32),
        **labelled(layout.images),
    }


def identity(classes: tuple[str, ...]) -> dict[str, str]:
    """What a checkpoint belongs to beside its shapes: the classes, in their order."""
    return {"classes": hashlib.sha256("\n".join(classes).encode()).hexdigest()}


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained ViT, as its work folder holds it."""

    config: VitPretraining
    model: VitForClassification
    classes: tuple[str, ...]
    params: PyTree


def open_trained(workdir: str, mesh: Mesh, report: Callable[[str], None]) -> Trained:
    """Reads configuration, classes and parameters of a run.

    Args:
      workdir: of the run.
      mesh: where the parameters go.
      report: is told about checkpoints that cannot be used.
    Raises:
      UserError: the folder holds no run, or no checkpoint that fits.
    """
    config = read_config(workdir, VitPretraining)
    require(
        config.objective == "supervised",
        f"{workdir} is a masked autoencoder and knows no classes: type python -m experiments.finetune "
        f"--task=image_classification --init={workdir} --data=images:DIR",
    )
    classes = read_classes(workdir)
    model = build_model(config, len(classes))
    recipe = initial_params(model), config.optimizer, config.training
    params = trained_params(workdir, *recipe, mesh, identity=identity(classes), report=report)
    return Trained(config, model, classes, params)


def make_evaluation(
    model: VitForClassification,
    examples: Examples,
    loss: str,
    normalization: Normalization,
    batch_size: int,
    mesh: Mesh,
) -> Evaluation:
    """Builds the scoring of images.

    Args:
      model: to score.
      examples: each of which counts once.
      loss: which one.
      normalization: of images.
      batch_size: images at a time.
      mesh: where it is computed.
    Returns:
      (params, stopping) -> what came of it; the baseline always answers the class that most of these images have, or,
      as a probability, the shares of all. None where `stopping()` became true.
    """
    return class_evaluation(make_scoring(model, loss, normalization), examples, loss, batch_size, mesh)


def class_evaluation(score: Scoring, examples: Examples, loss: str, batch_size: int, mesh: Mesh) -> Evaluation:
    """Builds the scoring of anything that has classes; as `make_evaluation`, with the scoring of a batch."""

    def evaluate(params: PyTree, stopping: Callable[[], bool]) -> Evaluated | None:
        found: list[Any] = []
        with jax.set_mesh(mesh):
            for batch in evaluation_batches(examples, mesh, batch_size=batch_size):
                if stopping():
                    return None
                found.append(score(params, batch))
        metrics, confusions = zip(*jax.device_get(found), strict=True)
        confusion = np.rint(np.sum(confusions, axis=0, dtype=np.float64)).astype(np.int64)
        return Evaluated(means(metrics) | baselines(confusion, loss), confusion)

    return evaluate


def baselines(confusion: Int64[np.ndarray, "K K"], loss: str) -> dict[str, float]:
    """The best that answers which do not look at the images can reach.

    Args:
      confusion: whose rows are the right classes.
      loss: "softmax", or "sigmoid", where each class is asked for by itself, summed over classes.
    """
    shares = confusion.sum(axis=1) / confusion.sum()
    nats = _surprise(shares) + (_surprise(1 - shares) if loss == "sigmoid" else 0.0)
    return {"majority_accuracy": float(shares.max()), "frequency_loss": nats}


def _surprise(shares: Float64[np.ndarray, " K"]) -> float:
    """Nats lost on what comes in these shares to whoever knows them; what never comes costs nothing."""
    return float(-np.sum(shares * np.log(np.maximum(shares, 1e-12))))
