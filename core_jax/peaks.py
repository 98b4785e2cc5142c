"""How fast devices can be at most, and which share of that a run uses."""

import re
from collections.abc import Mapping

from jax.sharding import Mesh

from core_jax.topologies import CHIPS

# Operations a second in bfloat16 without sparsity, of what jax calls one device; the first pattern that is found in
# its `device_kind` holds. A device of TPU v2 and v3 is one of a chip's two cores.
# Sources: https://cloud.google.com/tpu/docs/v2, https://cloud.google.com/tpu/docs/v3, and the data sheets of NVIDIA at
# https://www.nvidia.com/en-us/data-center/ (a100, h100, h200, l4, l40s), whose figures with sparsity are halved.
PEAK_FLOPS: dict[str, float] = {
    **{f"^{chip.device_kind}$": chip.flops for chip in CHIPS.values()},
    r"^TPU v2$": 46e12 / 2,
    r"^TPU v3$": 123e12 / 2,
    r"\bA100\b": 312e12,
    r"\bH100 PCIe\b": 756e12,
    r"\bH100 NVL\b": 835e12,
    r"\bH100\b": 989e12,
    r"\bH200 NVL\b": 835e12,
    r"\bH200\b": 989e12,
    r"\bL4\b": 121e12,
    r"\bL40S\b": 362e12,
}


def device_peak(device_kind: str) -> float | None:
    """Operations a second that a device reaches at most in bfloat16; None where it is not known.

    Args:
      device_kind: as jax names it, such as "TPU v5 lite" or "NVIDIA H100 80GB HBM3".
    """
    return next((peak for pattern, peak in PEAK_FLOPS.items() if re.search(pattern, device_kind)), None)


def mesh_peak(mesh: Mesh) -> float | None:
    """Operations a second that all devices of a mesh reach at most in bfloat16; None where it is not known."""
    peak = device_peak(mesh.devices.flat[0].device_kind)
    return None if peak is None else peak * mesh.size


def utilization(rates: Mapping[str, float], step_flops: int, peak: float) -> dict[str, float]:
    """Which share of the peak was used while steps were computed.

    Args:
      rates: of a stretch of training: `steps_per_second`, and `model_flops_per_second`, what useful tokens need.
      step_flops: operations that a step computes, padding and remat included.
      peak: from `mesh_peak`, in bfloat16, whatever the type of computation.
    Returns:
      `mfu` (model flops utilization) and `hardware_flops_utilization`.
    Source: Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B.
    """
    return {
        "mfu": rates["model_flops_per_second"] / peak,
        "hardware_flops_utilization": step_flops * rates["steps_per_second"] / peak,
    }
