"""Our side of images: the step that `experiments.pretrain` takes, and the logits of a forward pass."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core_jax.layers import in_compute_dtype
from core_jax.sharding import nested
from experiments.benchmark.modes import Mode
from experiments.benchmark.ours import Ours, start_training
from experiments.benchmark.vit_material import CLASSES
from experiments.benchmark.workplace import Workplace
from vit_jax.model import VitForClassification
from vit_jax.tasks import initial_params, supervised_loss, training_step


class OurVit(Ours):
    """One of our modes, ready to measure."""

    @classmethod
    def open(cls, mode: Mode, work: Workplace) -> "OurVit":
        """Loads weights and images."""
        config = work.config()
        model = VitForClassification(dataclasses.replace(config.model, dtype=mode.dtype), CLASSES)
        params = jax.tree.map(jnp.asarray, nested(work.weights()))
        if work.task == "image inference":
            compute = jax.jit(lambda params, batch: model.apply({"params": params}, batch["images"]))
            return cls(work, model, load_images(work), in_compute_dtype(params, mode.dtype), compute)
        optimizer, state, shapes = start_training(config, params, initial_params(model))
        step = training_step(model, config.supervision, config.images.normalization, optimizer, shapes, 1)
        return cls(work, model, load_images(work), state, step)

    def batches(self) -> dict[str, list[dict[str, Any]]]:
        """Our batches: images are all alike."""
        return {"images": self.rows}

    def check(self) -> list[float]:
        """What must agree with the peer on the first batch: the loss without dropout, or the logits."""
        batch = self.rows[0]
        if self.work.task == "image inference":
            return np.asarray(self.compute(self.state, batch), np.float32).ravel().tolist()
        loss = jax.jit(supervised_loss(self.model, self.work.config().supervision, train=False))
        return [float(loss(self.state.params, batch, jax.random.key(0))[0])]

    def count(self, batch: dict[str, Any]) -> int:
        """Images."""
        return len(batch["labels"])


def load_images(work: Workplace) -> list[dict[str, Any]]:
    """Batches as our step takes them."""
    with np.load(work.images_file) as stored:
        pairs = list(zip(stored["images"], stored["labels"], strict=True))
    ones = {"classes": np.ones(len(pairs[0][1]), np.float32)}
    return [{"images": images, "labels": labels, "weights": ones} for images, labels in pairs]
