"""Pretrained ViTs in `.npz` files of google-research/vision_transformer and google-research/big_vision, in and out."""

import io
import pathlib
import re
import zipfile
import zlib

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from core_jax.atomic_files import write_atomically
from core_jax.config import require
from core_jax.errors import UserError
from core_jax.peer_names import check_tensors, peer_name
from core_jax.safetensors_files import Tensors
from core_jax.sharding import by_path, nested
from vit_jax.config import STEM_WIDTH, VitConfig, stride_of
from vit_jax.peer_config import KIND
from vit_jax.peer_names import NUMPY
from vit_jax.stem_names import NUMPY_ROOTS, NUMPY_UNIT, numpy_stem, stem_told
from vit_jax.timm_weights import square_side
from vit_jax.weights import PretrainedVit, in_plain_layout, parameter_shapes, pools_as_names_tell

PREFIXES = ("opt/target/", "params/img/", "params/")  # of parameters, in front of which other things may stand
POSITIONS = "Transformer/posembed_input/pos_embedding"
# A part of a layer, such as LayerNorm_2: the older files count all parts on, the newer ones each class of them.
NUMBERED = re.compile(r"([A-Z][A-Za-z]*)_(\d+)")
OLDER = {  # in a layer
    "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
    "LayerNorm_1": "LayerNorm_2",
    "MlpBlock_0": "MlpBlock_3",
}


def read_npz(file: str | pathlib.Path, image_size: str = "") -> PretrainedVit:
    """Reads a ViT, whichever of both projects, and whenever, wrote it. GELU is by tanh, LayerNorm's epsilon 1e-6.

    Args:
      file: of NumPy.
      image_size: pixels, where images are not square, or positions are fixed and the file does not tell.
    Raises:
      UserError: the file is missing or damaged, or its arrays are not those of a ViT: all that are missing, unknown or
        of another shape are listed.
    """
    file = pathlib.Path(file).expanduser()
    arrays = _older_to_newer(_unscanned(_with_flat_norms(_without_prefix(_load(file)))))
    if "pos_embedding" in arrays:  # of patches alone
        table = arrays.pop("pos_embedding")
        arrays[POSITIONS] = np.pad(table, ((0, 0), (1, 0), (0, 0))) if "cls" in arrays else table
    config = _config(arrays, image_size, str(file))
    bias = arrays.get("head/bias")
    shapes = parameter_shapes(config, None if bias is None else bias.size)
    table = NUMPY | numpy_stem(config.stem_stages)
    names = {path: peer_name(table, path) for path in shapes}
    check_tensors(arrays, {names[path]: shape for path, shape in shapes.items()}, str(file), KIND)
    return PretrainedVit(config, nested({path: arrays[names[path]] for path in shapes}))


def write_npz(file: str | pathlib.Path, model: PretrainedVit) -> None:
    """Writes a ViT as google-research/vision_transformer does. Such a file tells neither GELU nor LayerNorm's epsilon.

    Args:
      file: to make.
      model: on the host or on devices, unrolled or scanned. Fixed positions are written as a table.
    Raises:
      UserError: there is no name for a part of it, or something is there already.
    """
    file = pathlib.Path(file).expanduser()
    require(not file.exists(), f"{file} is there already: nothing is overwritten; choose a new file")
    model = in_plain_layout(model)
    values: dict[str, np.ndarray] = by_path(model.params)
    table = NUMPY | numpy_stem(model.config.stem_stages)
    nameless = sorted({path for path in values if re.sub(r"(?<=block_)\d+", "#", path) not in table})
    if model.classes and not pools_as_names_tell(model.config):
        nameless.append(f"--pooling={model.config.pooling} beside a class token")
    require(not nameless, f"{file}: these files have no names for\n  " + "\n  ".join(nameless))
    # Row by row, or the same model would make another file where its arrays come transposed from somewhere.
    arrays = {_older_name(peer_name(table, path)): np.ascontiguousarray(value) for path, value in values.items()}
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)  # pyright: ignore[reportArgumentType]
    write_atomically(file, content.getvalue())


def _load(file: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        # Opened here: of a damaged file NumPy would forget to close what it has opened.
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            return {name: _recovered(stored[name]) for name in stored.files}
    except FileNotFoundError as error:
        raise UserError(f"npz:{file}: there is no such file") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, TypeError) as error:
        raise UserError(
            f"npz:{file} is damaged, no .npz file, or holds pickles, which are never loaded ({error}): fetch it again"
        ) from error


def _recovered(array: np.ndarray) -> np.ndarray:
    """With its type: NumPy saves bfloat16, which it does not know, as two bytes."""
    if array.dtype == np.dtype("V2"):
        array = array.view(jnp.bfloat16)
    return array.astype(np.float32) if array.dtype != np.float32 else array


def _without_prefix(arrays: dict[str, np.ndarray]) -> Tensors:
    """The parameters alone: not the optimizer's moments, which may stand beside them."""
    for prefix in PREFIXES:
        if found := {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}:
            return found
    return dict(arrays)


def _with_flat_norms(arrays: Tensors) -> Tensors:
    """With the scales and biases of GroupNorm along one axis: in older files three more stand before it."""
    flat = re.compile(r"(.*/)?gn\w+/(scale|bias)")
    wide = {name for name, array in arrays.items() if flat.fullmatch(name) and array.shape[:-1] == (1, 1, 1)}
    return {name: array.reshape(-1) if name in wide else array for name, array in arrays.items()}


def _unscanned(arrays: Tensors) -> Tensors:
    """With an array for each layer where all stand in one."""
    scanned = "Transformer/encoderblock/"
    found = {}
    for name, array in arrays.items():
        if name.startswith(scanned):
            rest = name.removeprefix(scanned)
            found |= {f"Transformer/encoderblock_{i}/{rest}": layer for i, layer in enumerate(array)}
        else:
            found[name] = array
    return found


def _older_to_newer(arrays: Tensors) -> Tensors:
    """With the parts of every layer counted by class, in the order of their numbers."""
    siblings: dict[tuple[str, str], set[int]] = {}
    for name in arrays:
        for parent, kind, number in _numbered(name):
            siblings.setdefault((parent, kind), set()).add(number)
    found = {}
    for name, array in arrays.items():
        parts = name.split("/")
        for parent, kind, number in _numbered(name):
            place = sorted(siblings[parent, kind]).index(number)
            parts[parent.count("/")] = f"{kind}_{place}"
        found["/".join(parts)] = array
    return found


def _numbered(name: str) -> list[tuple[str, str, int]]:
    """The counted parts of a name: the path in front of each with a / behind it, its class and its number."""
    parts = name.split("/")
    matches = ((place, NUMBERED.fullmatch(part)) for place, part in enumerate(parts))
    return [("".join(f"{part}/" for part in parts[:i]), match[1], int(match[2])) for i, match in matches if match]


def _older_name(name: str) -> str:
    return re.sub(r"(encoderblock_\d+/)(\w+)", lambda found: found[1] + OLDER.get(found[2], found[2]), name)


def _config(arrays: Tensors, image_size: str, source: str) -> VitConfig:
    first = "Transformer/encoderblock_0"
    query, mlp = f"{first}/MultiHeadDotProductAttention_0/query/kernel", f"{first}/MlpBlock_0/Dense_0/kernel"
    for name, rank in (("embedding/kernel", 4), (query, 3), (mlp, 2)):
        if name not in arrays or arrays[name].ndim != rank:
            raise UserError(f"{source} holds no ViT: it lacks {name} of {rank} axes")
    side, _, channels, width = arrays["embedding/kernel"].shape
    stem, root = stem_told(arrays, NUMPY_ROOTS, NUMPY_UNIT, 1), arrays.get(NUMPY_ROOTS[0])
    if root is not None and root.ndim == 4:
        channels = root.shape[2]
    table: Float[np.ndarray, ...] | None = arrays.get(POSITIONS)
    class_token = "cls" in arrays
    if not image_size and table is not None:
        require(table.ndim == 3, f"{source}: {POSITIONS} is of shape {table.shape}, expected 1, positions, width")
        image_size = str(stride_of(stem) * side * square_side(table.shape[1] - int(class_token), source))
    layers = [int(match[1]) for name in arrays if (match := re.match(r"Transformer/encoderblock_(\d+)/", name))]
    return VitConfig(
        width=width,
        depth=max(layers) + 1,
        heads=arrays[query].shape[1],
        mlp_width=arrays[mlp].shape[1],
        image_size=image_size or "224",
        channels=channels,
        patch_size=side,
        stem=stem,
        stem_width=STEM_WIDTH if root is None else root.shape[-1],
        positions="sincos" if table is None else "learned",
        class_token=class_token,
        pooling="attention" if "MAPHead_0/probe" in arrays else "token" if class_token else "mean",
        representation="pre_logits/kernel" in arrays,
    )
