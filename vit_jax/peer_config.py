"""The sizes of a ViT as `transformers` writes them: config.json of ViT, DINOv2 and DINOv2 with registers."""

import pathlib
from collections.abc import Mapping
from typing import Any, Literal

from core_jax.config import require
from core_jax.model_folders import check_fields, label_fields, numbers_expected
from core_jax.peer_names import PEER_GELUS
from vit_jax.config import VitConfig
from vit_jax.peer_names import FAMILIES

KIND = "a ViT"
SIZES = {  # ours -> theirs
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
}
OPTIONAL = {
    "norm_epsilon": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "initializer_range": "initializer_range",
    "channels": "num_channels",
}
DINOV2 = {"layer_scale": "layerscale_value", "stochastic_depth": "drop_path_rate"}
DEFAULTS = {  # where a file does not say
    "vit": {"layer_norm_eps": 1e-12, "image_size": 224, "patch_size": 16},
    "dinov2": {"layer_norm_eps": 1e-6, "image_size": 224, "patch_size": 14, "layerscale_value": 1.0},
    "dinov2_with_registers": {
        **{"layer_norm_eps": 1e-6, "image_size": 224, "patch_size": 16, "layerscale_value": 1.0},
        "num_register_tokens": 4,
    },
}
GELUS: dict[str, Literal["erf", "tanh"]] = {"gelu": "erf", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
PLAIN = {"qkv_bias": True, "pooler_act": "tanh", "use_swiglu_ffn": False}  # what this ViT cannot do otherwise
ARCHITECTURES = {  # of each family: the class of features, and the one that classifies
    "vit": ("ViTModel", "ViTForImageClassification"),
    "dinov2": ("Dinov2Model", "Dinov2ForImageClassification"),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersForImageClassification"),
}


def family_of(config: VitConfig) -> str:
    """The family of `transformers` that can hold a model.

    Raises:
      UserError: none can; all that is in the way is listed.
    """
    family = "dinov2_with_registers" if config.registers else "dinov2" if config.layer_scale else "vit"
    problems = {
        "its patches are cut from the feature map of a ResNet, as ViTHybrid's were, which version 5 does not have: "
        "write npz:FILE or timm:FILE, without --verify": bool(config.stem),
        "it has no class token": not config.class_token,
        f"its norm is {config.norm!r}": config.norm != "pre",
        "its queries and keys are normalised": config.qk_norm,
        f"it pools by {config.pooling}": config.pooling not in ("token", "token_and_mean"),
        "it has registers, but no LayerScale": bool(config.registers and not config.layer_scale),
    }
    if family != "vit":
        problems |= {
            "it has LayerScale and a tanh layer before the classifier": config.representation,
            f"its images are not square ({config.image_size})": config.grid[0] != config.grid[1],
            f"its MLP is no whole number of times {config.width} wide": config.mlp_width % config.width > 0,
        }
    found = [problem for problem, holds in problems.items() if holds]
    require(not found, "`transformers` has no ViT like this one:\n  " + "\n  ".join(found))
    return family


def from_peer_config(fields: Mapping[str, Any], file: pathlib.Path) -> VitConfig:
    """The configuration of the unrolled model, as far as its sizes tell it: pooled by the class token.

    Args:
      fields: of a config.json.
      file: named in errors.
    Raises:
      UserError: the fields describe another model, or lack a size.
    """
    family = str(fields.get("model_type"))
    expected = f"{file}: model_type is {family!r}, expected one of {', '.join(FAMILIES)}"
    require(family in FAMILIES, expected)
    width = fields.get("hidden_size", 0)
    plain = PLAIN | {"pooler_output_size": width if fields.get("pooler_output_size") else None}
    wanted = (*SIZES.values(), "intermediate_size" if family == "vit" else "mlp_ratio")
    choices = {"hidden_act": ("gelu", GELUS)}
    chosen = check_fields(fields, file, "this ViT", wanted=wanted, plain=plain, choices=choices)
    fields = DEFAULTS[family] | dict(fields)
    names = SIZES | OPTIONAL | ({} if family == "vit" else DINOV2)
    values = {ours: fields[theirs] for ours, theirs in names.items() if theirs in fields}
    with numbers_expected(file, SIZES.values()):
        return VitConfig(
            **values,
            mlp_width=fields["intermediate_size"] if family == "vit" else int(width * fields["mlp_ratio"]),
            image_size=size_text(fields["image_size"]),
            patch_size=_side(fields["patch_size"], file),
            registers=fields["num_register_tokens"] if family == "dinov2_with_registers" else 0,
            gelu=GELUS[chosen["hidden_act"]],
            initializer="normal",
        )


def size_text(size: Any) -> str:
    """An image size as flags have it: pixels of a side, or HEIGHTxWIDTH."""
    if isinstance(size, (list, tuple)):
        return str(size[0]) if len(set(size)) == 1 else "x".join(map(str, size))
    return str(size)


def _side(size: Any, file: pathlib.Path) -> int:
    sides = set(size) if isinstance(size, (list, tuple)) else {size}
    require(len(sides) == 1, f"{file}: patch_size is {size}, expected squares")
    return sides.pop()


def to_peer_config(config: VitConfig, classes: int | None, labels: list[str] | None) -> dict[str, Any]:
    """The fields of a config.json.

    Args:
      config: of the model.
      classes: outputs of its classifier; None: it has none.
      labels: their names, where they are known.
    Raises:
      UserError: `transformers` has no such model.
    """
    family = family_of(config)
    names = SIZES | OPTIONAL | ({} if family == "vit" else DINOV2)
    fields = {theirs: getattr(config, ours) for ours, theirs in names.items()}
    if family == "vit":
        fields |= {"intermediate_size": config.mlp_width, "encoder_stride": config.patch_size}
    else:
        fields |= {"mlp_ratio": config.mlp_width // config.width, "use_swiglu_ffn": False}
    if family == "dinov2_with_registers":
        fields["num_register_tokens"] = config.registers
    if classes is not None:
        fields |= label_fields(labels or [f"LABEL_{number}" for number in range(classes)])
    square = config.height == config.width_of_image
    return {
        "architectures": [ARCHITECTURES[family][classes is not None]],
        "model_type": family,
        **fields,
        "hidden_act": PEER_GELUS[config.gelu],
        "image_size": config.height if square else [config.height, config.width_of_image],
        "patch_size": config.patch_size,
        "qkv_bias": True,
        "dtype": "float32",
    }
