"""What can be wrong between hosts: other code, other clocks, devices that do not reach each other."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from core_jax.host_checks import CLOCK_MEND, CLOCK_SECONDS, Finding

REPEATS = 5


def check_same_code(hosts: Sequence[str], codes: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Whether all hosts have the same commit and libraries.

    Args:
      hosts: their names.
      codes: `host_checks.describe_code` of each.
    """
    findings = []
    for name, expected in codes[0].items():
        others = {host: code[name] for host, code in zip(hosts, codes, strict=True) if code[name] != expected}
        if others:
            listed = ", ".join(f"{host} has {value}" for host, value in others.items())
            text = f"{hosts[0]} has {name} {expected}, but {listed}"
            findings.append(Finding("broken", text, "the same everywhere: tpu_setup/tpu install NAME"))
    short = ", ".join(f"{name} {(value or 'none')[:12]}" for name, value in codes[0].items())
    return findings or [Finding("ok", f"{len(hosts)} host{'s' if len(hosts) > 1 else ''} with {short}")]


def check_clocks(hosts: Sequence[str], times: Sequence[float]) -> Finding:
    """Whether hosts that looked at the same moment saw the same time.

    Args:
      hosts: their names.
      times: in seconds.
    """
    middle = float(np.median(times))
    off = {host: seconds - middle for host, seconds in zip(hosts, times, strict=True)}
    wrong = {host: difference for host, difference in off.items() if abs(difference) > CLOCK_SECONDS}
    if wrong:
        listed = ", ".join(f"{host} by {difference:+.0f} s" for host, difference in wrong.items())
        return Finding("broken", f"clocks differ: {listed}", CLOCK_MEND)
    return Finding("ok", f"clocks agree to {max(times) - min(times):.1f} s")


def check_devices_alike(hosts: Sequence[str], counts: Sequence[int]) -> Finding:
    """Whether every host brings as many devices."""
    few = [f"{host} has {count}" for host, count in zip(hosts, counts, strict=True) if count != max(counts)]
    if few:
        return Finding(
            "broken",
            f"hosts have {max(counts)} devices, but {', '.join(few)}",
            "tpu_setup/tpu delete NAME, then create it",
        )
    return Finding("ok", f"{sum(counts)} devices on {len(hosts)} host{'s' if len(hosts) > 1 else ''}, in one program")


@dataclasses.dataclass(frozen=True)
class AllReduce:
    """A sum over all devices, measured."""

    right: bool
    seconds: float  # the shortest of several
    bytes_sent: float  # by each device, as a ring does it


def measure_all_reduce(size: int) -> AllReduce:
    """Sums an array over all devices of all hosts, which all must call this.

    Args:
      size: bytes on each device.
    Source: bytes sent: https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md
    """
    devices = jax.devices()
    mesh = Mesh(np.array(devices), ("all",))
    shape = (len(devices), size // 4)

    def part(index):
        return np.full((1, shape[1]), (index[0].start or 0) + 1, np.float32)

    array = jax.make_array_from_callback(shape, NamedSharding(mesh, P("all")), part)
    reduce = jax.jit(lambda x: jnp.sum(x, 0), out_shardings=NamedSharding(mesh, P()))
    total, seconds = jax.block_until_ready(reduce(array)), []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(reduce(array))
        seconds.append(time.perf_counter() - start)
    expected = len(devices) * (len(devices) + 1) / 2
    right = all(bool(np.all(np.asarray(shard.data) == expected)) for shard in total.addressable_shards)
    return AllReduce(right, min(seconds), 2 * (len(devices) - 1) / len(devices) * size)


def check_all_reduce(measured: AllReduce, size: int) -> Finding:
    """What a measurement says."""
    if not measured.right:
        mend = "a chip or a link is damaged: delete the TPU, and create another"
        return Finding("broken", "a sum over all devices came out wrong", mend)
    rate = measured.bytes_sent / measured.seconds / 1e9
    took = f"{measured.seconds * 1e3:.2f} ms: {rate:.2f} GB/s a device"
    return Finding("ok", f"a sum of {size / 2**20:.0f} MiB over all devices took {took}")
