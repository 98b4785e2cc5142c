"""ResNet with weight standardisation and group normalisation: what a hybrid ViT cuts patches from; of use alone, too.

Axes: B batch, H x W pixels, h x w and p x q places of feature maps, C channels, I channels that a convolution reads, O
that it gives.
"""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, DTypeLike, Float

from core_jax.layers import compute_dtype
from core_jax.sharding import BATCH_AXES, constrain, shards_evenly
from vit_jax.config import STEM_GROUPS, VitConfig

Map = Float[Array, "B h w C"]
NewMap = Float[Array, "B p q O"]  # of other sizes
Epsilons = Literal["google", "timm"]
WIDENING = 4  # channels of a unit's output for each of its convolution in the middle
NORM_EPSILON = {"google": 1e-6, "timm": 1e-5}
REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_saveable,  # of convolutions too
    "full": jax.checkpoint_policies.nothing_saveable,
}


def standardize(kernel: Float[Array, "*size I O"], epsilons: Epsilons = "google") -> Float[Array, "*size I O"]:
    """A kernel whose weights for each output have mean 0 and deviation 1.

    Args:
      kernel: of a convolution.
      epsilons: 1e-5 added to the deviation, or 1e-8 to the variance.
    Source: Qiao et al. 2019, https://arxiv.org/abs/1903.10520; "google" as in models_resnet.py of
      https://github.com/google-research/vision_transformer, "timm" as in vision_transformer_hybrid.py of
      https://github.com/huggingface/pytorch-image-models, which `transformers` follows.
    """
    axes = tuple(range(kernel.ndim - 1))
    centred = kernel - jnp.mean(kernel, axis=axes, keepdims=True)
    variance = jnp.mean(centred**2, axis=axes, keepdims=True)
    deviation = jnp.sqrt(variance) + 1e-5 if epsilons == "google" else jnp.sqrt(variance + 1e-8)
    return centred / deviation


class StandardizedConv(nn.Module):
    """A convolution with a standardised kernel and no bias; edges are padded so that every stride starts a place."""

    channels: int  # O
    size: int  # of the kernel, down and across
    stride: int
    epsilons: Epsilons
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Map) -> NewMap:
        """Computed in `dtype`; the kernel is kept and standardised in float32."""
        shape = (self.size, self.size, x.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        # Gathered: the compiler would otherwise divide the convolution by channels, and move the larger feature maps.
        kernel = constrain(standardize(kernel, self.epsilons).astype(self.dtype), None, None, None, None)
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (self.stride,) * 2, "SAME", dimension_numbers=numbers)


class Bottleneck(nn.Module):
    """A residual branch of three convolutions that are narrow in the middle, then ReLU.

    Source: He et al. 2015, https://arxiv.org/abs/1512.03385; the stride is that of the convolution in the middle.
    """

    width: int  # channels in the middle
    stride: int
    projects: bool  # whether the input must change its shape to be added
    epsilons: Epsilons
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Map) -> NewMap:
        """One unit; the map is `stride` times as small afterwards."""

        def conv(y, name, channels, size=1, stride=1):
            return StandardizedConv(channels, size, stride, self.epsilons, self.dtype, name=name)(y)

        norm = _norms(self.epsilons, self.dtype)
        wide = WIDENING * self.width
        y = nn.relu(norm("norm_1")(conv(x, "conv_1", self.width)))
        y = nn.relu(norm("norm_2")(conv(y, "conv_2", self.width, 3, self.stride)))
        y = norm("norm_3", scale_init=nn.initializers.zeros_init())(conv(y, "conv_3", wide))
        if self.projects:
            x = norm("projection_norm")(conv(x, "projection", wide, 1, self.stride))
        return by_images(nn.relu(x + y))


class ResNet(nn.Module):
    """A convolution of 7 x 7 pixels and a pooling, then stages of bottleneck units.

    Source: Dosovitskiy et al. 2020, section 3.1 and appendix B.2, https://arxiv.org/abs/2010.11929, as models_vit.py
      and models_resnet.py of https://github.com/google-research/vision_transformer have it; from Kolesnikov et al.
      2019, https://arxiv.org/abs/1912.11370.
    """

    stages: tuple[int, ...]  # units of each; (3, 4, 6, 3) is ResNet-50
    width: int = 64  # channels behind the first convolution
    epsilons: Epsilons = "google"
    dtype: DTypeLike = jnp.float32  # of computation
    remat: Literal["none", "dots", "full"] = "none"

    @nn.compact
    def feature_maps(self, images: Float[Array, "B H W C"]) -> list[Array]:
        """The map behind the pooling, and that of each stage.

        Args:
          images: values from -1 to 1, of any size.
        Returns:
          Maps that are 4, 4, 8, 16, ... times as small as the images (sizes are rounded up), of `width` channels, then
          4, 8, 16, ... times as many.
        """
        unit = nn.remat(Bottleneck, policy=REMAT_POLICIES[self.remat]) if self.remat != "none" else Bottleneck
        x = by_images(images.astype(self.dtype))
        x = StandardizedConv(self.width, 7, 2, self.epsilons, self.dtype, name="root")(x)
        x = nn.relu(_norms(self.epsilons, self.dtype)("root_norm")(x))
        maps = [by_images(nn.max_pool(x, (3, 3), (2, 2), "SAME"))]
        for stage, units in enumerate(self.stages):
            x = maps[-1]
            for number in range(units):
                first, name = number == 0, f"stage_{stage}_unit_{number}"
                stride = 2 if first and stage else 1
                x = unit(self.width * 2**stage, stride, first, self.epsilons, self.dtype, name=name)(x)
            maps.append(x)
        return maps

    def __call__(self, images: Float[Array, "B H W C"]) -> NewMap:
        """The last of `feature_maps`."""
        return self.feature_maps(images)[-1]


def stem_of(config: VitConfig) -> ResNet:
    """The ResNet of a hybrid ViT, to be used as a part of it."""
    return ResNet(config.stem_stages, config.stem_width, config.stem_epsilons, compute_dtype(config), config.remat)


def by_images(x: Map) -> Map:
    """Pins a map to the mesh: convolutions are divided by images alone, over the tensor axis too where it divides."""
    axes = (*BATCH_AXES, "tensor")
    return constrain(x, axes if shards_evenly(x.shape[:1], P(axes)) else BATCH_AXES, None, None, None)


def _norms(epsilons: Epsilons, dtype: DTypeLike) -> Callable[..., nn.GroupNorm]:
    """Makes GroupNorms with float32 statistics, by name. Source: Wu and He 2018, https://arxiv.org/abs/1803.08494"""

    def norm(name: str, **options: Any) -> nn.GroupNorm:
        epsilon = NORM_EPSILON[epsilons]
        return nn.GroupNorm(STEM_GROUPS, epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name, **options)

    return norm
