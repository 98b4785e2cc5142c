"""The masked autoencoder as a family that `experiments.pretrain` trains."""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Key, PyTree

from core_jax.config import require
from core_jax.data import evaluation_batches
from core_jax.family import Evaluated, Evaluation, Wording
from core_jax.metrics import means
from core_jax.train import Metrics, State, compile_step, make_step
from vit_jax.family import VitFamily, draw_losses
from vit_jax.image_pictures import grid_picture, shown
from vit_jax.image_sets import ImageSet
from vit_jax.mae import MAE_IDENTITY, MaskedAutoencoder, initial_mae_params, mae_flops, mae_loss, reconstruct
from vit_jax.normalization import normalised, of_bytes
from vit_jax.presets import VitPretraining

DRAWN = 8  # images, each of them whole, in part, and filled in
ROWS = ("image", "seen", "filled in")
PICTURE = "reconstructions.png"


class MaeFamily(VitFamily):
    """Reconstruction of hidden patches; the methods are those of `core_jax.family.Family`."""

    wording = Wording(
        held_out="images",
        rows=(("reconstruction error", "loss", "blind_loss"),),
        baselines="the mean of each patch everywhere in it, or grey where pixels are not normalised",
        chances={},
        shown=("loss", "images_per_second", "mfu"),
        unit="images",
        speed="images_per_second",
        next_command="finetune --task=image_classification --init={workdir} --data=images:DIR",
    )

    def check(self, config: VitPretraining, workdir: str) -> None:
        """Raises for mistakes in where the images come from; such a run starts from random parameters."""
        require(not config.init, f"--init={config.init}: --objective=mae starts from random parameters")
        super().check(config, workdir)

    def model_ahead(self, config: VitPretraining) -> Any:
        """The model; its sizes do not depend on the data."""
        return MaskedAutoencoder(config.model, config.mae)

    def model_for(self, config: VitPretraining, data: ImageSet) -> Any:
        """The model."""
        del data
        return self.model_ahead(config)

    def identity(self, data: ImageSet) -> dict[str, str]:
        """Nothing of the data: no class is learnt."""
        del data
        return MAE_IDENTITY

    def initial_params(self, model: Any) -> Callable[[Key[Array, ""]], PyTree]:
        """key -> fresh parameters."""
        return initial_mae_params(model)

    def training_step(
        self, config: VitPretraining, model: Any, optimizer: optax.GradientTransformation, state: State
    ) -> Callable[..., tuple[State, Metrics]]:
        """The jitted step."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        loss = of_bytes(mae_loss(model, train=True), config.images.normalization, config.model.channels)
        return compile_step(make_step(loss, optimizer, config.training.accumulation_steps), shardings)

    def model_flops(self, model: Any, batch: PyTree) -> float:
        """Of all images of the batch."""
        return float(mae_flops(model.config, model.mae, batch["labels"].shape[0]))

    def make_evaluation(self, config: VitPretraining, model: Any, data: ImageSet, mesh: Mesh) -> Evaluation:
        """The error on held-out images, of which the same patches are hidden every time."""
        loss = mae_loss(model, train=False)
        score = jax.jit(of_bytes(loss, config.images.normalization, config.model.channels))
        batch_size = config.training.global_batch_size

        def evaluate(params: PyTree, stopping: Callable[[], bool]) -> Evaluated | None:
            found: list[Any] = []
            with jax.set_mesh(mesh):
                for number, batch in enumerate(evaluation_batches(data.held_out, mesh, batch_size=batch_size)):
                    if stopping():
                        return None
                    found.append(score(params, batch, jax.random.key(number))[1])
            values = means(jax.device_get(found))
            scores = {"loss": values["reconstruction_loss"], "blind_loss": values["blind_loss"]}
            return Evaluated(scores)

        return evaluate

    def draw(
        self, config: VitPretraining, workdir: str, data: ImageSet, evaluated: Evaluated, params: PyTree
    ) -> list[str]:
        """What the model makes of some held-out images, and the losses by step."""
        del evaluated
        count = min(DRAWN, len(data.held_out))
        images = np.stack([data.held_out.example(0, number)["images"] for number in range(count)])
        images = normalised(images, config.images.normalization, config.model.channels)
        run = functools.partial(reconstruct, MaskedAutoencoder(config.model, config.mae))
        everywhere = NamedSharding(jax.tree.leaves(params)[0].sharding.mesh, PartitionSpec())
        made = jax.device_get(jax.jit(run, out_shardings=everywhere)(params, images, jax.random.key(0)))
        if jax.process_index() != 0:
            return []
        path = os.path.join(workdir, PICTURE)
        values = np.concatenate([made[name] for name in ROWS])
        names = [name for name in ROWS for _ in range(count)]
        grid_picture(path, shown(list(values), config.images.normalization), names, columns=count)
        return [path, draw_losses(workdir)]
