"""Makes what both sides read of images: batches of noise, and one set of weights.

Axes: B images, H x W pixels, C channels.
"""

import dataclasses

import jax
import numpy as np

from core_jax.config import OptimizerConfig
from core_jax.sharding import nested
from experiments.benchmark.material import noisy
from experiments.benchmark.modes import IMAGES
from experiments.benchmark.workplace import Workplace
from vit_jax.model import VitForClassification
from vit_jax.presets import PRESETS, VitPretraining
from vit_jax.tasks import initial_params
from vit_jax.weights import PretrainedVit, write_hf

CLASSES = 1000  # of ImageNet
BATCHES = 4
IMAGE_PRESETS = {name: preset for name, preset in PRESETS.items() if preset.objective == "supervised"}


def configure(preset: VitPretraining) -> VitPretraining:
    """The model and the recipe of both sides: the preset's sizes and dropout, plain AdamW at a constant rate."""
    optimizer = OptimizerConfig(learning_rate=1e-4, warmup_steps=0, schedule="constant")
    return dataclasses.replace(preset, optimizer=optimizer)


def make_vit_material(folder: str, preset: VitPretraining, positions: int, *, peer: bool) -> None:
    """Writes all files of the `Workplace`s of images.

    Args:
      folder: for the files.
      preset: of a supervised model.
      positions: of a batch: images times their positions.
      peer: whether to write the model as the peer opens it.
    Raises:
      UserError: the peer has no such model.
    """
    work = Workplace(folder, IMAGES[0], preset.model.height)
    work.save_config(configure(preset))
    model = VitForClassification(preset.model, CLASSES)
    weights = noisy(jax.jit(initial_params(model))(jax.random.key(0)))
    np.savez(work.weights_file, allow_pickle=False, **weights)
    random, config = np.random.default_rng(0), preset.model
    shape = BATCHES, max(positions // preset.model.tokens, 1)
    images = random.uniform(-1, 1, (*shape, config.height, config.width_of_image, config.channels)).astype(np.float32)
    np.savez(work.images_file, images=images, labels=random.integers(CLASSES, size=shape, dtype=np.int32))
    if peer:
        write_hf(work.peer_folder, PretrainedVit(config, nested(weights)))
