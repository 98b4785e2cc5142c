"""ViT as a family that `experiments.pretrain` trains."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int64, Key, PyTree

from core_jax.family import Evaluated, Evaluation, Report, Wording
from core_jax.pictures import confusion_matrix_picture, curves_picture
from core_jax.train import Metrics, State
from core_jax.workdir import read_records
from vit_jax import pretraining, tasks
from vit_jax.image_sets import ImageSet, check_images
from vit_jax.model import VitForClassification
from vit_jax.model_flops import step_flops, whole_flops
from vit_jax.packed_images import PackedImages
from vit_jax.presets import VitPretraining
from vit_jax.rows_config import row_layout
from vit_jax.skipped_images import SHOWN
from vit_jax.starting_weights import adopt_architecture, check_init, load_init

SAMPLED_ROWS = 50  # of packed ones, to tell how full they are
DRAWN_CLASSES = 100  # a matrix of more cannot be read


class VitFamily:
    """Classification of images; the methods are those of `core_jax.family.Family`."""

    wording = Wording(
        held_out="images",
        rows=(
            ("accuracy", "accuracy", "majority_accuracy"),
            ("top-5 accuracy", "top5_accuracy", ""),
            ("loss (nats)", "loss", "frequency_loss"),
        ),
        baselines="the most frequent class among the held-out images; the shares of all of them",
        chances={},
        shown=("loss", "accuracy", "images_per_second", "mfu"),
        unit="images",
        speed="images_per_second",
        next_command="predict --init={workdir} picture.png",
    )

    def adopt(self, config: VitPretraining, report: Report) -> VitPretraining:
        """The configuration with the sizes of the ViT that --init names."""
        return adopt_architecture(config, report)

    def check(self, config: VitPretraining, workdir: str) -> None:
        """Raises for mistakes in --init and in where the images come from."""
        del workdir
        check_init(config.init)
        check_images(config.images)

    def model_ahead(self, config: VitPretraining) -> VitForClassification:
        """The model for the classes that the data probably has."""
        return pretraining.build_model(config, pretraining.expected_classes(config))

    def batch_shapes(self, config: VitPretraining) -> dict[str, Any]:
        """Of images."""
        return pretraining.batch_shapes(config)

    def units(self, config: VitPretraining) -> int:
        """Images of a row, about that of packed ones."""
        return row_layout(config.model, config.rows).typical_images if config.rows.packing else 1

    def open_data(self, config: VitPretraining, workdir: str, report: Report) -> ImageSet:
        """The images; the names of their classes are kept in the work folder."""
        del report
        return pretraining.open_images(config, workdir)

    def name_of_rows(self, config: VitPretraining) -> str:
        """Images, or what several are packed into."""
        return "packed rows" if config.rows.packing else "images"

    def model_for(self, config: VitPretraining, data: ImageSet) -> VitForClassification:
        """The model for the classes of the data."""
        return pretraining.build_model(config, len(data.classes))

    def identity(self, data: ImageSet) -> dict[str, str]:
        """The classes."""
        return pretraining.identity(data.classes)

    def load_init(
        self,
        config: VitPretraining,
        model: VitForClassification,
        data: ImageSet,
        fresh: PyTree,
        mesh: Mesh,
        report: Report,
    ) -> PyTree:
        """The parameters of another run."""
        return load_init(config.init, model, data.classes, fresh, mesh, report)

    def findings(self, config: VitPretraining, data: ImageSet, workdir: str) -> list[str]:
        """How often each image is seen, since that is what recipes for images are given in."""
        del workdir
        training = config.training
        epochs = training.steps * training.global_batch_size / len(data.train)
        rows = f"{training.global_batch_size:,} {self.name_of_rows(config)}"
        return [f"{training.steps:,} steps of {rows} are {epochs:,.1f} epochs"]

    def initial_params(self, model: VitForClassification) -> Callable[[Key[Array, ""]], PyTree]:
        """key -> fresh parameters."""
        return tasks.initial_params(model)

    def training_step(
        self,
        config: VitPretraining,
        model: VitForClassification,
        optimizer: optax.GradientTransformation,
        state: State,
    ) -> Callable[..., tuple[State, Metrics]]:
        """The jitted step."""
        recipe = config.supervision, config.images.normalization
        return tasks.training_step(model, *recipe, optimizer, state, config.training.accumulation_steps)

    def model_flops(self, model: VitForClassification, batch: PyTree) -> float:
        """Of all images of the batch; of packed rows as if each were one image: shapes know of none."""
        if "patches" in batch:
            return float(whole_flops(model.config, batch, model.classes))
        return float(step_flops(model.config, batch["labels"].shape[0], model.classes))

    def make_evaluation(
        self, config: VitPretraining, model: VitForClassification, data: ImageSet, mesh: Mesh
    ) -> Evaluation:
        """The scoring of held-out images."""
        recipe = config.supervision.loss, config.images.normalization
        return pretraining.make_evaluation(model, data.held_out, *recipe, config.training.global_batch_size, mesh)

    def describe(self, data: ImageSet) -> str:
        """Number of classes and of images."""
        train = f"{len(data.train):,} images"
        if isinstance(data.train, PackedImages):
            images, rows = len(data.train.images), len(data.train)
            per_row, padding = data.train.measure(range(0, rows, -(-rows // SAMPLED_ROWS)))
            train = f"{images:,} images in {rows:,} rows ({per_row:.2f} a row, {100 * padding:.1f} % padding)"
        return f"{len(data.classes):,} classes; {train} to train on, {len(data.held_out):,} held out"

    def summary(self, data: ImageSet) -> dict[str, Any]:
        """Sizes, and how many images could not be read; of those in the parts, these are not taken off."""
        sizes: dict[str, Any] = {"train_examples": len(data.train), "held_out_examples": len(data.held_out)}
        if isinstance(data.train, PackedImages):
            sizes |= {"train_examples": len(data.train.images), "train_rows": len(data.train)}
        skipped = data.skipped.names()
        if skipped:
            sizes |= {"first_skipped_images": skipped[:SHOWN]}
        return {"classes": len(data.classes), **sizes, "skipped_images": len(skipped)}

    def draw(
        self, config: VitPretraining, workdir: str, data: ImageSet, evaluated: Evaluated, params: PyTree
    ) -> list[str]:
        """Which classes are taken for which, and the losses by step."""
        del config, params
        return draw_classes(workdir, evaluated, data.classes)


def draw_classes(workdir: str, evaluated: Evaluated, classes: Sequence[str]) -> list[str]:
    """Draws which classes are taken for which, where they are not too many, and the losses; the first process does."""
    if jax.process_index() != 0:
        return []
    paths = []
    if evaluated.confusion is not None and len(classes) <= DRAWN_CLASSES:
        paths.append(os.path.join(workdir, "confusion_matrix.png"))
        confusion_matrix_picture(paths[-1], *as_examples(evaluated.confusion), classes)
    return [*paths, draw_losses(workdir)]


def draw_losses(workdir: str) -> str:
    """Draws the losses of a run by step; gives the path of the picture."""
    curves = {}
    for split in ("train", "held_out"):
        lines = [line for line in read_records(workdir) if line["split"] == split]
        curves[split.replace("_", " ")] = [line["step"] for line in lines], [line["loss"] for line in lines]
    path = os.path.join(workdir, "loss.png")
    curves_picture(path, curves, "loss")
    return path


def as_examples(
    confusion: Int64[np.ndarray, "K K"],
) -> tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]]:
    """(right classes, classes given) of as many examples as a matrix counts."""
    right, given = np.nonzero(confusion)
    counts = confusion[right, given]
    return np.repeat(right, counts), np.repeat(given, counts)
