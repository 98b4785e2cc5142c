"""Pretrained ViTs in safetensors files with timm's names, in and out. Such a file does not tell the number of heads."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from core_jax.atomic_files import write_atomically
from core_jax.config import require
from core_jax.errors import UserError
from core_jax.model_folders import read_fields
from core_jax.peer_names import check_tensors, from_peer, peer_name, peer_shape
from core_jax.safetensors_files import Tensors, pack_tensors, read_tensor_file
from core_jax.sharding import nested
from vit_jax.config import STEM_WIDTH, VitConfig, stride_of
from vit_jax.peer_config import KIND
from vit_jax.peer_names import TIMM, fused_name
from vit_jax.stem_names import TIMM_ROOTS, TIMM_UNIT, stem_told, timm_stem
from vit_jax.weights import (
    HALVES,
    Colours,
    PretrainedVit,
    in_plain_layout,
    outputs,
    parameter_shapes,
    pools_as_names_tell,
    to_tensors,
)

# Heads by width, where they are not 64 wide: So400m, H, g, G.
HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}


def read_timm(file: str | pathlib.Path, heads: int = 0, image_size: str = "") -> PretrainedVit:
    """Reads a ViT as timm saves it; the GELU is exact and LayerNorm's epsilon 1e-6, as for all of timm's ViTs.

    Args:
      file: of safetensors; a config.json beside it may say how images are normalised.
      heads: of each layer; 0: as in the published model of this width.
      image_size: pixels, where images are not square.
    Raises:
      UserError: the file is missing or damaged, or its tensors are not those of a ViT: all that are missing, unknown or
        of another shape are listed.
    """
    file = pathlib.Path(file).expanduser()
    tensors = read_tensor_file(file)
    config = _config(tensors, heads, image_size, str(file))
    tensors = _own_positions(tensors, config)
    classes = outputs(tensors.get("head.weight"))
    shapes = parameter_shapes(config, classes)
    table = TIMM | timm_stem(config.stem_stages)
    names = {path: peer_name(table, path) for path in shapes}
    parts: dict[str, dict[int, tuple[int, ...]]] = {}
    for path, shape in shapes.items():
        fused, part = fused_name(names[path])
        parts.setdefault(fused, {})[part] = peer_shape(path, shape)
    expected = {fused: _joined(pieces) for fused, pieces in parts.items()}
    check_tensors(tensors, expected, str(file), KIND)
    found = {}
    for path, shape in shapes.items():
        fused, part = fused_name(names[path])
        found[path] = from_peer(path, np.split(tensors[fused], len(parts[fused]))[part], shape)
    return PretrainedVit(config, nested(found), None, *_normalisation(file))


def write_timm(file: str | pathlib.Path, model: PretrainedVit) -> None:
    """Writes a ViT as timm saves it; with registers the class token's position is added to it, as timm does.

    Args:
      file: to make.
      model: on the host or on devices, unrolled or scanned.
    Raises:
      UserError: timm has no such model, or something is there already.
    """
    file = pathlib.Path(file).expanduser()
    require(not file.exists(), f"{file} is there already: nothing is overwritten; choose a new file")
    model = in_plain_layout(model)
    config = model.config
    problems = {
        "a tanh layer before the classifier": config.representation,
        "LayerNorm behind its branches": config.norm != "pre",
        f"--pooling={config.pooling} beside a class token": bool(model.classes) and not pools_as_names_tell(config),
    }
    found = [problem for problem, holds in problems.items() if holds]
    require(not found, f"timm has no ViT with {', '.join(found)}: write hf:DIR or npz:FILE")
    pieces: dict[str, dict[int, np.ndarray]] = {}
    for name, value in to_tensors(model.params, TIMM | timm_stem(config.stem_stages)).items():
        fused, part = fused_name(name)
        pieces.setdefault(fused, {})[part] = value
    tensors = {name: np.concatenate([parts[i] for i in sorted(parts)]) for name, parts in pieces.items()}
    if config.registers and config.class_token:
        table = tensors["pos_embed"]
        tensors |= {"cls_token": tensors["cls_token"] + table[:, :1], "pos_embed": table[:, 1:]}
    write_atomically(file, pack_tensors(tensors))


def square_side(patches: int, source: str) -> int:
    """Patches along a side of a square image.

    Raises:
      UserError: so many make no square.
    """
    side = round(patches**0.5)
    if side * side != patches:
        raise UserError(f"{source} has positions of {patches} patches, no square: type FILE?image_size=HEIGHTxWIDTH")
    return side


def _config(tensors: Tensors, heads: int, image_size: str, source: str) -> VitConfig:
    patch, table = tensors.get("patch_embed.proj.weight"), tensors.get("pos_embed")
    mlp = tensors.get("blocks.0.mlp.fc1.weight")
    if patch is None or table is None or mlp is None or (patch.ndim, table.ndim, mlp.ndim) != (4, 3, 2):
        raise UserError(
            f"{source} holds no ViT of timm's: it lacks patch_embed.proj.weight, pos_embed or blocks.0.mlp.fc1.weight"
        )
    width, channels, side, _ = patch.shape
    stem = stem_told(tensors, TIMM_ROOTS, TIMM_UNIT, 0)
    root = next((tensors[name] for name in TIMM_ROOTS if name in tensors), None)
    if root is not None and root.ndim == 4:
        channels = root.shape[1]
    class_token = "cls_token" in tensors
    registers = tensors["reg_token"].shape[1] if "reg_token" in tensors else 0
    if not image_size:
        rows, prefix = table.shape[1], int(class_token) + registers
        patches = rows if round(rows**0.5) ** 2 == rows else rows - prefix
        image_size = str(stride_of(stem) * side * square_side(patches, source))
    layers = [int(match[1]) for name in tensors if (match := re.match(r"blocks\.(\d+)\.", name))]
    return VitConfig(
        width=width,
        depth=max(layers) + 1,
        heads=heads or HEADS.get(int(width)) or max(width // 64, 1),
        mlp_width=len(mlp),
        gelu="erf",
        initializer="normal",
        image_size=image_size,
        channels=channels,
        patch_size=side,
        stem=stem,
        stem_width=STEM_WIDTH if root is None else len(root),
        stem_epsilons="timm" if stem else "google",
        class_token=class_token,
        registers=registers,
        pooling="attention" if "attn_pool.latent" in tensors else "token" if class_token else "mean",
        layer_scale=1e-5 if "blocks.0.ls1.gamma" in tensors else 0.0,
        qk_norm="blocks.0.attn.q_norm.weight" in tensors,
    )


def _own_positions(tensors: Tensors, config: VitConfig) -> Tensors:
    """With a row of positions for the class token and none for registers, however timm keeps them."""
    table, patches = tensors["pos_embed"], config.grid[0] * config.grid[1]
    prefix = int(config.class_token)
    changed = {}
    if table.shape[1] == patches and prefix:  # positions are added to the patches alone
        changed["pos_embed"] = np.pad(table, ((0, 0), (1, 0), (0, 0)))
    elif config.registers and table.shape[1] == prefix + config.registers + patches:
        split = prefix + config.registers
        changed["reg_token"] = tensors["reg_token"] + table[:, prefix:split]
        changed["pos_embed"] = np.concatenate([table[:, :prefix], table[:, split:]], axis=1)
    return tensors | changed


def _joined(pieces: Mapping[int, tuple[int, ...]]) -> tuple[int, ...]:
    return (sum(shape[0] for shape in pieces.values()), *pieces[0][1:])


def _normalisation(file: pathlib.Path) -> tuple[Colours, Colours]:
    if not file.with_name("config.json").exists():
        return HALVES, HALVES
    fields: Mapping[str, Any] = read_fields(file.with_name("config.json"), KIND).get("pretrained_cfg", {})
    return tuple(map(float, fields.get("mean", HALVES))), tuple(map(float, fields.get("std", HALVES)))
