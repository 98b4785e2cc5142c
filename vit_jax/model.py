"""ViT as Dosovitskiy et al. 2020 (https://arxiv.org/abs/2010.11929), from the blocks of core_jax.

Axes: B batch, H x W pixels, C channels, T positions, D width, S images of a packed row, P what stands for an image, K
classes.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from core_jax.embeddings import ImageEmbeddings, PackedPatches
from core_jax.heads import AttentionPooler, Classifier, gather_positions, segment_means
from core_jax.layers import dense
from core_jax.transformer import Stack
from vit_jax.config import VitConfig
from vit_jax.resnet import stem_of

Images = Float[Array, "B H W C"]


class Vit(nn.Module):
    """Stem where there is one, embeddings, encoder and pooling."""

    config: VitConfig

    def setup(self):
        """Makes the parts."""
        config = self.config
        if config.stem:
            self.stem = stem_of(config)
        self.embeddings = ImageEmbeddings(
            config, config.patch_size, config.grid, config.positions, config.class_token, config.registers
        )
        self.encoder = Stack(config)
        if config.pooling == "attention":
            self.pooler = AttentionPooler(config)

    def __call__(
        self, images: Images | PackedPatches, *, train: bool = False
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B *S P"]]:
        """Reads images.

        Args:
          images: of the configuration's size, values from -1 to 1; or patches of images of any size, several of these
            packed into a row, each of which sees itself alone.
          train: whether dropout and stochastic depth are on (they need the "dropout" randomness).
        Returns:
          The hidden states of the class token and registers (where there are any) and patches, and what stands for
          each image.
        Source: packing from Dehghani et al. 2023 (NaViT), section 2.1, https://arxiv.org/abs/2307.06304
        """
        if isinstance(images, PackedPatches):
            hidden = self.encoder(self.embeddings(images, train=train), images.segments, train=train)
            return hidden, self.pool_packed(hidden, images)
        cut_from = self.stem(images) if self.config.stem else images
        hidden = self.encoder(self.embeddings(cut_from, train=train), train=train)
        return hidden, self.pool(hidden)

    def pool(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B P"]:
        """What stands for an image, from its hidden states."""
        config = self.config
        if config.pooling == "token":
            return hidden[:, 0]
        patches = hidden[:, int(config.class_token) + config.registers :]
        if config.pooling == "attention":
            return self.pooler(patches)[:, 0]
        mean = jnp.mean(patches, axis=1)
        return jnp.concatenate([hidden[:, 0], mean], axis=1) if config.pooling == "token_and_mean" else mean

    def pool_packed(self, hidden: Float[Array, "B T D"], packed: PackedPatches) -> Float[Array, "B S P"]:
        """What stands for each image of a row, from its own hidden states."""
        pooling, images = self.config.pooling, packed.starts.shape[1]
        patches = jnp.where(packed.front == 0, packed.segments, 0)  # which image a patch is of
        if pooling == "attention":
            return self.pooler(hidden, patches, images)
        tokens = [gather_positions(hidden, packed.starts)] if pooling.startswith("token") else []
        means = [segment_means(hidden, patches, images).astype(hidden.dtype)] if pooling.endswith("mean") else []
        return jnp.concatenate([*tokens, *means], axis=2)


class VitForClassification(nn.Module):
    """ViT with a linear classifier, behind a tanh layer where the configuration asks for one."""

    config: VitConfig
    classes: int
    head_bias: float = 0.0  # that the classifier starts from

    def setup(self):
        """Makes the parts."""
        self.vit = Vit(self.config)
        if self.config.representation:
            self.representation = dense(self.config, self.config.width, "representation")
        init = nn.initializers.zeros_init() if self.config.initializer == "xavier" else None
        self.classifier = Classifier(self.config, self.classes, init, self.head_bias)

    def __call__(self, images: Images | PackedPatches, *, train: bool = False) -> Float[Array, "B *S K"]:
        """Logits; arguments as for `Vit`."""
        _, pooled = self.vit(images, train=train)
        if self.config.representation:
            pooled = jnp.tanh(self.representation(pooled))
        return self.classifier(pooled)
