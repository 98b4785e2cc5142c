"""The masked autoencoder of He et al. 2021 (https://arxiv.org/abs/2111.06377): ViT learns from images without labels.

Axes: B batch, H x W pixels, C channels, N patches, V visible patches, T positions, D width, F values of the pixels of a
patch.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from core_jax.embeddings import cut_patches, join_patches
from core_jax.flops import TRAINING, Count, for_each, stack_flops
from core_jax.grid_positions import sincos_positions
from core_jax.layers import compute_dtype, dense
from core_jax.losses import objective
from core_jax.sharding import BATCH_AXES, constrain
from core_jax.train import Loss
from core_jax.transformer import Stack
from vit_jax.config import MaeConfig, VitConfig
from vit_jax.model import Images, Vit
from vit_jax.model_flops import PATCHES

MAE_IDENTITY = {"objective": "mae"}  # of checkpoints, beside their shapes: no class is learnt
Order = Int[Array, "B N"]


class MaskedAutoencoder(nn.Module):
    """A ViT that sees some of the patches, and a smaller Transformer that fills in the others."""

    config: VitConfig
    mae: MaeConfig

    def setup(self):
        """Makes the parts."""
        config, mae = self.config, self.mae
        decoder = mae.decoder(config)
        self.vit = Vit(config)
        self.decoder_embedding = dense(decoder, decoder.width, "decoder_embedding")
        self.mask_token = self.param("mask_token", nn.initializers.normal(0.02), (1, 1, decoder.width))
        self.decoder = Stack(decoder)
        self.pixels = dense(config, config.patch_size**2 * config.channels, "pixels")

    def __call__(self, images: Images, order: Order, *, train: bool = False) -> Float[Array, "B N F"]:
        """Predicts the pixels of every patch.

        Args:
          images: of the configuration's size.
          order: of the patches of each image: the first of them are seen, the others are not.
          train: as for `Vit`.
        """
        config, front = self.config, int(self.config.class_token) + self.config.registers
        embedded = self.vit.embeddings(images, train=train)
        seen = order[:, : visible_patches(config, self.mae), None]
        visible = jnp.take_along_axis(embedded[:, front:], seen, axis=1)
        hidden = self.vit.encoder(jnp.concatenate([embedded[:, :front], visible], axis=1), train=train)
        hidden = self.decoder_embedding(hidden)
        hidden = self.decoder(self.with_masks(hidden, order, front), train=train)
        return self.pixels(hidden[:, front:])

    def with_masks(self, hidden: Float[Array, "B T D"], order: Order, front: int) -> Float[Array, "B S D"]:
        """Puts the visible patches where they were in the image, a mask's token everywhere else, and adds positions."""
        rows, columns = self.config.grid
        batch, width = len(hidden), hidden.shape[-1]
        hidden_count = rows * columns - (hidden.shape[1] - front)
        masks = jnp.broadcast_to(self.mask_token, (batch, hidden_count, width)).astype(hidden.dtype)
        shuffled = jnp.concatenate([hidden[:, front:], masks], axis=1)
        patches = jnp.take_along_axis(shuffled, jnp.argsort(order, axis=1)[:, :, None], axis=1)
        positions = sincos_positions(rows, columns, width, endpoint=False).astype(compute_dtype(self.config))
        patches = patches + jnp.asarray(positions)[None]
        return constrain(jnp.concatenate([hidden[:, :front], patches], axis=1), BATCH_AXES, None, None)


def visible_patches(config: VitConfig, mae: MaeConfig) -> int:
    """How many patches of an image the encoder sees; at least one."""
    return max(int(config.grid[0] * config.grid[1] * (1 - mae.mask_share)), 1)


def random_order(config: VitConfig, key: Key[Array, ""], batch: int) -> Order:
    """A random order of the patches of each image; it does not depend on the mesh."""
    return jnp.argsort(jax.random.uniform(key, (batch, config.grid[0] * config.grid[1])), axis=1)


def targets(config: VitConfig, mae: MaeConfig, images: Images) -> Float[Array, "B N F"]:
    """What is to be predicted: the pixels of each patch, by default normalised by their own mean and deviation.

    Source: He et al. 2021, section 3; the deviation has one degree of freedom less, as in
      https://github.com/facebookresearch/mae (models_mae.py)
    """
    patches = cut_patches(images.astype(jnp.float32), config.patch_size)
    if not mae.normalised_pixels:
        return patches
    mean, deviation = _statistics(patches)
    return (patches - mean) / deviation


def reconstruction_loss(
    predicted: Float[Array, "B N F"],
    wanted: Float[Array, "B N F"],
    order: Order,
    visible: int,
    weights: Float[Array, " B"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean squared error of the patches that were not seen: (sum over them, weight of them)."""
    hidden = jnp.argsort(order, axis=1) >= visible
    errors = jnp.mean((predicted.astype(jnp.float32) - wanted) ** 2, axis=-1)
    counts = hidden * weights[:, None]
    return jnp.sum(errors * counts), jnp.sum(counts)


def reconstruct(
    model: MaskedAutoencoder, params: PyTree, images: Images, key: Key[Array, ""]
) -> dict[str, Float[Array, "B H W C"]]:
    """What the model makes of images that it sees in part.

    Args:
      model: with normalised pixels it knows each patch but for mean and deviation, which are taken from the image.
      params: of the model.
      images: of the configuration's size.
      key: says which patches are hidden.
    Returns:
      "image", "seen" (hidden patches are 0: grey), and "filled in" (seen patches, and predictions of the others).
    """
    config, visible = model.config, visible_patches(model.config, model.mae)
    order = random_order(config, key, len(images))
    predicted: Any = model.apply({"params": params}, images, order)
    patches = cut_patches(images.astype(jnp.float32), config.patch_size)
    if model.mae.normalised_pixels:
        mean, deviation = _statistics(patches)
        predicted = predicted * deviation + mean
    seen = (jnp.argsort(order, axis=1) < visible)[:, :, None]
    found = {"image": patches, "seen": jnp.where(seen, patches, 0.0), "filled in": jnp.where(seen, patches, predicted)}
    return {name: join_patches(values, *config.grid, config.patch_size) for name, values in found.items()}


def _statistics(patches):
    """Mean of the pixels of each patch, and their deviation with one degree of freedom less."""
    variance = jnp.var(patches, axis=-1, keepdims=True, ddof=1)
    return jnp.mean(patches, axis=-1, keepdims=True), jnp.sqrt(variance + 1e-6)


def initial_mae_params(model: MaskedAutoencoder) -> Callable[[Key[Array, ""]], PyTree]:
    """key -> fresh parameters of a model."""
    config = model.config

    def init(key: Key[Array, ""]) -> PyTree:
        images = jnp.zeros((1, config.height, config.width_of_image, config.channels))
        return model.init(key, images, random_order(config, key, 1))["params"]

    return init


def mae_flops(config: VitConfig, mae: MaeConfig, images: Count) -> Count:
    """Operations that a step needs on so many images: the encoder sees few patches, the decoder all."""
    decoder, patches = mae.decoder(config), config.grid[0] * config.grid[1]
    front = config.tokens - patches
    seen = front + visible_patches(config, mae)
    pixels = config.patch_size**2 * config.channels
    stacks = stack_flops(config, seen, seen**2) + stack_flops(decoder, config.tokens, config.tokens**2)
    heads = 2 * decoder.width * (seen * config.width + patches * pixels)
    of_image = TRAINING * (stacks + heads) + PATCHES * 2 * patches * pixels * config.width
    return for_each(images, int(of_image))


def mae_loss(model: MaskedAutoencoder, *, train: bool) -> Loss:
    """Reconstruction of hidden patches as a task.

    Args:
      model: whose parameters are trained.
      train: whether dropout and stochastic depth are on.
    Returns:
      loss(params, batch, key) of normalised images; which patches are hidden follows from the key.
    """
    config, mae = model.config, model.mae
    visible = visible_patches(config, mae)

    def loss(params: PyTree, batch: dict[str, Any], key: Key[Array, ""]) -> Any:
        images, weights = batch["images"], batch["weights"]["classes"]
        order_key, dropout_key = jax.random.split(key)
        order = random_order(config, order_key, len(images))
        predicted: Any = model.apply({"params": params}, images, order, train=train, rngs={"dropout": dropout_key})
        wanted = targets(config, mae, images)
        error = reconstruction_loss(predicted, wanted, order, visible, weights)
        # `totals` count images; every image hides as many patches.
        hidden = config.grid[0] * config.grid[1] - visible
        terms = {"classes": (error[0] / hidden, error[1] / hidden)}
        useful = jnp.sum(weights > 0, dtype=jnp.float32)
        metrics = {
            "reconstruction_loss": error,
            "blind_loss": reconstruction_loss(jnp.zeros_like(wanted), wanted, order, visible, weights),
            "useful_images": (useful, jnp.float32(weights.size)),
            "useful_flops": (mae_flops(config, mae, useful), jnp.float32(mae_flops(config, mae, weights.size))),
        }
        return objective(terms, batch.get("totals")), metrics

    return loss
