"""TPU slices by the names that users give them, and what their chips can do."""

import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

from core_jax.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip; rates are per second. Source: https://cloud.google.com/tpu/docs/system-architecture-tpu-vm"""

    device_kind: str  # as jax names it
    flops: float  # bfloat16 operations
    hbm_bytes: int  # memory
    hbm_rate: float  # bytes to and from memory
    ici_rate: float  # bytes sent to neighbours, over all links in one direction
    numbers_count_cores: bool  # "v4-32" are 32 cores of 16 chips, "v5e-32" are 32 chips
    dimensions: int  # of the torus
    largest: int  # chips of a slice
    options: tuple[tuple[str, Any], ...] = ()  # what the compiler wants to know beside the shape


CHIPS = {
    "v4": Chip("TPU v4", 275e12, 32 * GIB, 1228e9, 150e9, True, 3, 4096, (("chip_config_name", "megacore"),)),
    "v5e": Chip("TPU v5 lite", 197e12, 16 * GIB, 819e9, 100e9, False, 2, 256),
    "v5p": Chip("TPU v5", 459e12, 95 * GIB, 2765e9, 300e9, True, 3, 6144),
    "v6e": Chip("TPU v6 lite", 918e12, 32 * GIB, 1640e9, 224e9, False, 2, 256),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice: so many chips of one kind, wired as a grid."""

    generation: str
    shape: tuple[int, ...]

    @property
    def chip(self) -> Chip:
        """What one of them can do."""
        return CHIPS[self.generation]

    @property
    def chips(self) -> int:
        """How many."""
        return math.prod(self.shape)

    @property
    def name(self) -> str:
        """As jax spells it, such as `v5e:16x16`."""
        return f"{self.generation}:{'x'.join(map(str, self.shape))}"


def slice_names(generation: str) -> dict[str, Topology]:
    """The usual slices of a generation by the name that one orders them by: {"v5e-8": v5e:2x4, ...}."""
    chip, found = CHIPS[generation], {}
    for exponent in range(chip.largest.bit_length()):
        chips = 2**exponent
        if chips == 2 or (
            chip.dimensions == 3 and chips < 4
        ):  # hosts have four chips; one alone can be had of two kinds
            continue
        shape = tuple(2 ** ((exponent + i) // chip.dimensions) for i in range(chip.dimensions))
        if chips == 4 and chip.dimensions == 3:
            shape = (2, 2, 1)
        found[f"{generation}-{chips * 2 if chip.numbers_count_cores else chips}"] = Topology(generation, shape)
    return found


def parse_topology(text: str) -> Topology:
    """Reads `v5e-256`, as one orders a slice, or `v5e:16x16`, as its chips are wired.

    Raises:
      UserError: there is no such slice; lists those there are.
    """
    match = re.fullmatch(r"(v\d+\w*)(?:-(\d+)|:(\d+(?:x\d+){1,2}))", text.strip().lower())
    if not match or match[1] not in CHIPS:
        examples = "v4-32, v5e-256, v5p-128, v6e-64 or v5e:16x16"
        raise UserError(f"--plan={text}: expected a TPU slice such as {examples}; there are {', '.join(CHIPS)}")
    generation = match[1]
    names = slice_names(generation)
    if match[2]:
        if text not in names:
            raise UserError(f"--plan={text}: no such slice; there are {', '.join(names)}")
        return names[text]
    shape = tuple(int(size) for size in match[3].split("x"))
    chip = CHIPS[generation]
    # Hosts hold 2x2 chips; only a slice of one chip is smaller.
    whole_hosts = math.prod(shape) == 1 or (shape[0] % 2 == 0 and shape[1] % 2 == 0)
    if len(shape) != chip.dimensions or not 1 <= math.prod(shape) <= chip.largest or not whole_hosts:
        grids = ", ".join(topology.name for topology in names.values())
        raise UserError(f"--plan={text}: no such slice; the usual ones are {grids}")
    return Topology(generation, shape)


def describe_devices(topology: Topology) -> list[Any]:
    """The devices of a slice that is not here, to compile for.

    Raises:
      UserError: the TPU compiler is not installed, or knows no such slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("--plan needs the TPU compiler, which is a package: pip install -e '.[tpu]'")
    # The compiler otherwise asks the network what machine this is.
    defaults = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no TPU is held: several plans may be made at once
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    options: dict[str, Any] = dict(topology.chip.options)
    if topology.chips == 1:
        options["chips_per_host_bounds"] = [1, 1, 1]
    try:
        return list(topologies.get_topology_desc(topology.name, "tpu", **options).devices)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"--plan={topology.name}: the TPU compiler refuses it: {str(error).splitlines()[0]}") from error
