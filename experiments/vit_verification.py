"""Our ViT beside that of `transformers`, with the same weights on the same images.

Axes: B batch, H x W pixels, C channels, T positions, D width.
"""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from core_jax.transformer import Block
from experiments.verification import Outputs, import_peer
from vit_jax.config import VitConfig
from vit_jax.model import Vit, VitForClassification
from vit_jax.position_tables import Method, resize_model
from vit_jax.weights import PretrainedVit

ROWS = 2
Differences = dict[str, float]


def random_images(config: VitConfig, seed: int = 0) -> Float[np.ndarray, "B H W C"]:
    """Images of noise."""
    shape = (ROWS, config.height, config.width_of_image, config.channels)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def our_outputs(model: PretrainedVit, images: Float[np.ndarray, "B H W C"]) -> Outputs:
    """Hidden states after every layer and at the end, what the tanh layer makes of them, and logits, in float32.

    Args:
      model: its last two only where it has the layers.
      images: of its size.
    """
    config = dataclasses.replace(model.config, dtype="float32", scan_layers=False)
    keep = lambda module, name: isinstance(module, Block) and name == "__call__"  # noqa: E731
    run: Any = jax.jit(functools.partial(Vit(config).apply, capture_intermediates=keep))
    pixels = jnp.asarray(images)
    (states, pooled), captured = run({"params": model.params["vit"]}, pixels)
    layers = captured["intermediates"]["encoder"]
    found = {f"hidden states {i + 1}": layers[f"block_{i}"]["__call__"][0] for i in range(config.depth)}
    found["features"] = states
    if model.classes:
        logits: Any = jax.jit(VitForClassification(config, model.classes).apply)({"params": model.params}, pixels)
        found["logits"] = logits
    elif config.representation:
        layer = model.params["representation"]
        found["pooled"] = np.tanh(np.asarray(pooled) @ layer["kernel"] + layer["bias"])
    return {name: np.asarray(value) for name, value in jax.device_get(found).items()}


def peer_outputs(folder: pathlib.Path, images: Float[np.ndarray, "B H W C"]) -> Outputs:
    """The same of the peer.

    Args:
      folder: that `transformers` opens.
      images: of a size of whole patches, which need not be that of its position table.
    Raises:
      UserError: the peer is not installed.
    """
    torch, transformers = import_peer()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    (architecture,) = json.loads((folder / "config.json").read_text())["architectures"]
    kind = getattr(transformers, architecture)
    model, loading = kind.from_pretrained(
        folder, attn_implementation="eager", dtype="float32", output_loading_info=True
    )
    base = getattr(model.eval(), model.base_model_prefix, model)
    layers = [module for module in base.modules() if type(module).__name__.endswith("Layer")]
    seen: list[Any] = []
    for layer in layers:
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    pixels = torch.tensor(images.transpose(0, 3, 1, 2))
    size = model.config.image_size
    native = images.shape[1:3] == (tuple(size) if isinstance(size, (list, tuple)) else (size, size))
    # DINOv2 does so without being asked to; ViT can, of its own size, only where that is square.
    other = {"interpolate_pos_encoding": True} if model.config.model_type == "vit" and not native else {}
    with torch.inference_mode():
        out = base(pixels, **other)
        found = {f"hidden states {i + 1}": value for i, value in enumerate(list(seen))}
        found["features"] = out.last_hidden_state
        if hasattr(model, "classifier"):
            found["logits"] = model(pixels, **other).logits
        elif getattr(base, "pooler", None) is not None and not loading["missing_keys"]:
            found["pooled"] = out.pooler_output
    return {name: value.numpy() for name, value in found.items()}


def compare(
    model: PretrainedVit, folder: pathlib.Path, image_size: str = "", method: Method = "bicubic"
) -> Differences:
    """The greatest difference of every output on random images.

    Args:
      model: ours.
      folder: with the same weights, that `transformers` opens.
      image_size: pixels of the images, where they are not those of the model: both then interpolate their positions.
      method: that the peer interpolates with.
    Raises:
      UserError: the peer is not installed, or the size does not divide into patches.
    """
    if image_size:
        config, params = resize_model(model.config, model.params, image_size, method)
        model = dataclasses.replace(model, config=config, params=params)
    images = random_images(model.config)
    return greatest_differences(our_outputs(model, images), peer_outputs(folder, images))


def greatest_differences(ours: Outputs, theirs: Outputs) -> Differences:
    """The greatest difference of every output.

    Raises:
      ValueError: the outputs have other names.
    """
    if ours.keys() != theirs.keys():
        raise ValueError(f"outputs differ: {sorted(ours.keys() ^ theirs.keys())}")
    return {name: float(np.abs(ours[name] - theirs[name]).max()) for name in ours}
