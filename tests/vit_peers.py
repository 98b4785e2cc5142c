"""Small random ViTs, ours and those of `transformers` (the `parity` extra), and what they compute."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core_jax.losses import cross_entropy
from core_jax.sharding import by_path, nested
from core_jax.transformer import stack_layers, unstack_layers
from vit_jax.config import VitConfig
from vit_jax.model import Vit, VitForClassification
from vit_jax.peer_names import current_hf_name, hf_table
from vit_jax.weights import PretrainedVit, parameter_shapes, to_params

SCALE = 0.12  # of random weights, as for BERT
# No two sizes are equal, so that no axis can stand in for another.
SIZES = {"hidden_size": 30, "num_hidden_layers": 3, "num_attention_heads": 5, "num_channels": 2, "patch_size": 4}
SIZES |= {"num_labels": 7, "image_size": 12}
PEERS: dict[str, dict[str, Any]] = {
    "ViTForImageClassification": {"intermediate_size": 44, "image_size": [12, 20]},
    "ViTModel": {"intermediate_size": 44, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
    "Dinov2Model": {"mlp_ratio": 3, "image_size": 16},
    "Dinov2ForImageClassification": {"mlp_ratio": 2, "hidden_act": "gelu_pytorch_tanh"},
    "Dinov2WithRegistersModel": {"mlp_ratio": 3, "num_register_tokens": 3, "hidden_act": "gelu_pytorch_tanh"},
    "Dinov2WithRegistersForImageClassification": {"mlp_ratio": 2, "num_register_tokens": 3},
}


def random_vit(config: VitConfig, classes: int | None = None, seed: int = 0, **more: Any) -> PretrainedVit:
    """Our unrolled model with random parameters, none of them 0 or 1."""
    random = np.random.RandomState(seed)

    def draw(path, shape):
        value = SCALE * random.standard_normal(shape)
        return (value + 1 if path.endswith("scale") else value).astype(np.float32)

    shapes = parameter_shapes(config, classes)
    return PretrainedVit(config, nested({path: draw(path, shape) for path, shape in shapes.items()}), **more)


def random_peer(architecture: str, **changes: Any) -> Any:
    """A model of `transformers` with random parameters, none of them 0 or 1."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    kind = getattr(transformers, architecture)
    config = kind.config_class(**SIZES | PEERS[architecture] | changes, attn_implementation="eager")
    model, random = kind(config), np.random.RandomState(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = SCALE * random.standard_normal(parameter.shape) + ("norm" in name or "lambda" in name)
            parameter.copy_(torch.tensor(value))
    return model.eval()


def random_images(config: VitConfig, seed: int = 0) -> np.ndarray:
    """Three images."""
    shape = (3, config.height, config.width_of_image, config.channels)
    return np.random.RandomState(seed).uniform(-1, 1, shape).astype(np.float32)


def direction(shape: tuple[int, ...]) -> np.ndarray:
    """Factors of states in a loss, where there are no logits."""
    return np.random.RandomState(2).standard_normal(shape).astype(np.float32)


def peer_results(model: Any, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """States, logits or what is pooled, a loss, and its gradients by the names of `hf_table`."""
    import torch  # pyright: ignore[reportMissingImports]

    base = getattr(model, model.base_model_prefix, model)
    pixels = torch.tensor(images.transpose(0, 3, 1, 2))
    states = base(pixels).last_hidden_state
    out, results = model(pixels), {"states": states}
    if hasattr(model, "classifier"):
        results["logits"] = out.logits
        loss = torch.nn.functional.cross_entropy(out.logits, torch.tensor(labels))
    else:
        pooled = out.pooler_output
        results["pooled"] = pooled
        loss = (states * torch.tensor(direction(states.shape))).mean()
        loss = loss + (pooled * torch.tensor(direction(pooled.shape))).mean()
    loss.backward()
    family, results = model.config.model_type, results | {"loss": loss}
    found = {name: value.detach().numpy() for name, value in results.items()}
    gradients = {current_hf_name(name, family): value.grad for name, value in model.named_parameters()}
    gradients.pop(f"{family}.embeddings.mask_token", None)
    return found | {"gradients": {name: value.numpy() for name, value in gradients.items()}}


def our_results(model: PretrainedVit, images: np.ndarray, labels: np.ndarray, *, scan: bool = False) -> dict[str, Any]:
    """The same of ours; gradients by path."""
    config, classes = model.config, model.classes
    change = lambda params, how: params | {"vit": params["vit"] | {"encoder": how(params["vit"]["encoder"])}}  # noqa: E731
    params, pixels = change(model.params, stack_layers) if scan else model.params, jnp.asarray(images)
    if scan:
        config = VitConfig(**{**vars(config), "scan_layers": True})

    def loss(params):
        states, pooled = Vit(config).apply({"params": params["vit"]}, pixels)
        if classes:
            logits: Any = VitForClassification(config, classes).apply({"params": params}, pixels)
            total, count = cross_entropy(logits, jnp.asarray(labels, jnp.int32), jnp.ones(len(labels)))
            return total / count, {"states": states, "logits": logits}
        if "representation" in params:
            layer = params["representation"]
            pooled = jnp.tanh(pooled @ layer["kernel"] + layer["bias"][None])
        found = {"states": states, "pooled": pooled}
        return sum(jnp.mean(value * direction(value.shape)) for value in found.values()), found

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, found), gradients = jax.device_get(run(params))
    gradients = change(gradients, unstack_layers) if scan else gradients
    return found | {"loss": value, "gradients": by_path(gradients)}


def in_our_names(gradients: dict[str, np.ndarray], model: PretrainedVit, family: str) -> dict[str, np.ndarray]:
    """Gradients of the peer by our paths and in our shapes."""
    shapes = parameter_shapes(model.config, model.classes)
    return by_path(to_params(gradients, hf_table(family), shapes, "the peer"))
