"""The ResNet of hybrid ViTs beside that of `transformers`, of which ViTHybrid was made: maps and gradients to 1e-5."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.sharding import by_path, nested
from tests.vit_peers import SCALE, direction
from vit_jax.resnet import ResNet

STAGES, WIDTH = (2, 1), 32
RENAMED = (
    (r"^embedder\.convolution\.", "root."),
    (r"^embedder\.norm\.", "root_norm."),
    (r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.", r"stage_\1_unit_\2."),
    (r"\.downsample\.conv\.", ".projection."),
    (r"\.downsample\.norm\.", ".projection_norm."),
    (r"\.(conv|norm)(\d)\.", r".\1_\2."),
)


def our_name(name: str) -> str:
    for pattern, ours in RENAMED:
        name = re.sub(pattern, ours, name.removeprefix("bit."))
    *parts, kind = name.split(".")
    leaf = "bias" if kind == "bias" else "scale" if "norm" in parts[-1] else "kernel"
    return "/".join([*parts, leaf])


def in_our_layout(tensor: Any) -> np.ndarray:
    value = tensor.detach().numpy()
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value


def random_peer() -> Any:
    import torch  # pyright: ignore[reportMissingImports]
    from transformers import BitBackbone, BitConfig  # pyright: ignore[reportMissingImports]

    settings: dict[str, Any] = {
        "num_channels": 2,
        "embedding_size": WIDTH,
        "hidden_sizes": [4 * WIDTH, 8 * WIDTH],
        "depths": list(STAGES),
        "layer_type": "bottleneck",
        "global_padding": "SAME",
        "embedding_dynamic_padding": True,
        "out_features": ["stage2"],
    }
    config = BitConfig(**settings)
    model, random = BitBackbone(config), np.random.RandomState(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = SCALE * random.standard_normal(parameter.shape) + ("norm" in name)
            parameter.copy_(torch.tensor(value))
    return model.eval()


@pytest.mark.parametrize("size", [(33, 50), (64, 32)])
def test_maps_and_gradients_are_those_of_the_peer(size):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    peer = random_peer()
    images = np.random.RandomState(0).uniform(-1, 1, (2, *size, 2)).astype(np.float32)
    pixels = torch.tensor(images.transpose(0, 3, 1, 2), requires_grad=True)
    theirs = peer(pixels).feature_maps[-1].permute(0, 2, 3, 1)
    factors = direction(tuple(theirs.shape))
    (theirs * torch.tensor(factors)).sum().backward()
    params = nested({our_name(name): in_our_layout(value) for name, value in peer.named_parameters()})
    stem = ResNet(STAGES, WIDTH, "timm")

    def loss(params: Any, images: jax.Array):
        found: Any = stem.apply({"params": params}, images)
        return jnp.sum(found * factors), found

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    (of_params, of_images), found = gradient(params, jnp.asarray(images))
    np.testing.assert_allclose(found, theirs.detach().numpy(), rtol=1e-5, atol=1e-5)
    expected = {our_name(name): in_our_layout(value.grad) for name, value in peer.named_parameters()}
    ours = by_path(of_params) | {"images": of_images}
    expected["images"] = pixels.grad.numpy().transpose(0, 2, 3, 1)
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-5 * np.abs(value).max(), err_msg=name)
