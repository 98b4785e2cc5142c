"""How the parameters of a hybrid ViT's stem are called by google-research and by timm, beside ours."""

import re
from collections.abc import Iterable, Iterator

from core_jax.peer_names import norm

STEM = "vit/stem"
PARTS = ("1", "2", "3")  # convolutions of a unit, each with its norm
NUMPY_UNIT, TIMM_UNIT = r"block(\d+)/unit(\d+)/", r"patch_embed\.backbone\.stages\.(\d+)\.blocks\.(\d+)\."
# The kernel of the first convolution; timm has a shorter name for it where there are no stages.
NUMPY_ROOTS = ("conv_root/kernel",)
TIMM_ROOTS = ("patch_embed.backbone.conv.weight", "patch_embed.backbone.stem.conv.weight")


def numpy_stem(stages: tuple[int, ...]) -> dict[str, str]:
    """Rows from our paths to the names of https://github.com/google-research/vision_transformer.

    Args:
      stages: units of each.
    """
    table = {f"{STEM}/root/kernel": "conv_root/kernel"} | _numpy_norm(f"{STEM}/root_norm", "gn_root")
    for ours, stage, unit in _units(stages):
        theirs = f"block{stage + 1}/unit{unit + 1}"
        for part in PARTS:
            table[f"{ours}/conv_{part}/kernel"] = f"{theirs}/conv{part}/kernel"
            table |= _numpy_norm(f"{ours}/norm_{part}", f"{theirs}/gn{part}")
        table[f"{ours}/projection/kernel"] = f"{theirs}/conv_proj/kernel"
        table |= _numpy_norm(f"{ours}/projection_norm", f"{theirs}/gn_proj")
    return table


def timm_stem(stages: tuple[int, ...]) -> dict[str, str]:
    """The same for timm."""
    root = "patch_embed.backbone.stem" if stages else "patch_embed.backbone"
    table = _timm_pair(f"{STEM}/root", f"{STEM}/root_norm", f"{root}.conv", f"{root}.norm")
    for ours, stage, unit in _units(stages):
        theirs = f"patch_embed.backbone.stages.{stage}.blocks.{unit}"
        for part in PARTS:
            table |= _timm_pair(
                f"{ours}/conv_{part}", f"{ours}/norm_{part}", f"{theirs}.conv{part}", f"{theirs}.norm{part}"
            )
        down = f"{theirs}.downsample"
        table |= _timm_pair(f"{ours}/projection", f"{ours}/projection_norm", f"{down}.conv", f"{down}.norm")
    return table


def stem_told(names: Iterable[str], roots: Iterable[str], unit: str, first: int) -> str:
    """The stem that the names of a model's tensors tell of, as `VitConfig.stem` has it.

    Args:
      names: of all tensors.
      roots: names that the kernel of the first convolution may have.
      unit: pattern of the beginning of a name in a unit; finds the numbers of stage and unit.
      first: the number that stages and units are counted from.
    """
    names = set(names)
    counts: dict[int, int] = {}
    for match in (match for name in names if (match := re.match(unit, name))):
        stage, number = int(match[1]) - first, int(match[2]) - first
        counts[stage] = max(counts.get(stage, 1), number + 1)
    if not counts:
        return "root" if names.intersection(roots) else ""
    # A stage that is missing is taken for one of a single unit: what it lacks is then listed.
    return ",".join(str(counts.get(stage, 1)) for stage in range(max(counts) + 1))


def _units(stages: tuple[int, ...]) -> Iterator[tuple[str, int, int]]:
    for stage, units in enumerate(stages):
        for unit in range(units):
            yield f"{STEM}/stage_{stage}_unit_{unit}", stage, unit


def _numpy_norm(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}/{leaf}": f"{theirs}/{leaf}" for leaf in ("scale", "bias")}


def _timm_pair(conv: str, normed: str, their_conv: str, their_norm: str) -> dict[str, str]:
    return {f"{conv}/kernel": f"{their_conv}.weight"} | norm(normed, their_norm)
