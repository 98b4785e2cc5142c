"""Mixup and cutmix: each image of the global batch is mixed with the one before it, and so are their labels.

On the device, a function of the step's key and of the batch as a whole: no part of it depends on how many devices or
parts the batch is spread over.

Axes: B images, H x W pixels, C channels.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from core_jax.sharding import BATCH_AXES, constrain
from core_jax.train import Preparation


def make_mixing(mixup: float, cutmix: float) -> Preparation | None:
    """Builds the mixing of batches.

    Args:
      mixup: parameter of the Beta distribution of the share that is mixed in; 0: no mixup.
      cutmix: the same for the area that is pasted; 0: no cutmix. With both, each batch has one of them, by a fair coin.
    Returns:
      (batch of normalised images, key) -> the batch with mixed "images", "other_labels" of the images that are mixed
      in, and the "shares" of the batch's own labels; None where nothing is to be mixed.
    Source: Zhang et al. 2017, https://arxiv.org/abs/1710.09412; Yun et al. 2019, https://arxiv.org/abs/1905.04899. One
      draw serves a batch, as in big_vision and timm.
    """
    if not mixup and not cutmix:
        return None

    def mix(batch: dict[str, Any], key: Key[Array, ""]) -> dict[str, Any]:
        images, labels, counts = batch["images"], batch["labels"], batch["weights"]["classes"]
        coin, mixup_key, cutmix_key = jax.random.split(key, 3)
        height, width = images.shape[1:3]
        faded = [faded_map(mixup_key, mixup, height, width)] if mixup else []
        pasted = [pasted_map(cutmix_key, cutmix, height, width)] if cutmix else []
        kept, last = (faded + pasted)[0], (faded + pasted)[-1]
        if kept is not last:
            kept = jnp.where(jax.random.bernoulli(coin), last, kept)
        # A roll by one row moves a single row between neighbours; examples are shuffled anyway. One that counts for
        # nothing, since it could not be read, is not mixed in.
        kept = jnp.where(jnp.roll(counts, 1)[:, None, None, None] > 0, kept[None, :, :, None], 1.0)
        mixed = kept * images + (1 - kept) * jnp.roll(images, 1, axis=0)
        return batch | {
            "images": constrain(mixed, BATCH_AXES, None, None, None),
            "other_labels": constrain(jnp.roll(labels, 1), BATCH_AXES),
            "shares": constrain(jnp.mean(kept, axis=(1, 2, 3)), BATCH_AXES),
        }

    return mix


def faded_map(key: Key[Array, ""], alpha: float, height: int, width: int) -> Float[Array, "H W"]:
    """What is kept of each pixel in mixup: the same everywhere, at least a half."""
    share = jax.random.beta(key, alpha, alpha)
    return jnp.full((height, width), jnp.maximum(share, 1 - share))


def pasted_map(key: Key[Array, ""], alpha: float, height: int, width: int) -> Float[Array, "H W"]:
    """What is kept of each pixel in cutmix: nothing within a box, cut off at the borders, all outside."""
    share_key, row_key, column_key = jax.random.split(key, 3)
    side = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha))

    def inside(key, size):
        center, half = jax.random.randint(key, (), 0, size), jnp.floor(side * size).astype(jnp.int32) // 2
        places = jnp.arange(size)
        return (places >= center - half) & (places < center + half)

    box = inside(row_key, height)[:, None] & inside(column_key, width)[None, :]
    return 1.0 - box.astype(jnp.float32)
