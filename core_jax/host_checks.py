"""What can be wrong with one host before and after jax takes its devices, and how it is mended."""

import dataclasses
import glob
import importlib.metadata
import os
import pathlib
import platform
import shutil
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from etils import epath

TPU_FILES = ("/dev/accel*", "/dev/vfio/[0-9]*")
LIBRARIES = ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tensorstore")
LITTLE_SPACE, NO_SPACE = 20e9, 2e9  # bytes: of libraries, compilation caches and logs
CLOCK_SECONDS = 5.0  # of difference that do no harm
ROOT = pathlib.Path(__file__).parent.parent


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    verdict: Literal["ok", "note", "broken"]
    text: str
    mend: str = ""  # what to do or type


def holders(patterns: Sequence[str] = TPU_FILES, processes: str = "/proc") -> dict[int, str]:
    """Other processes that have a device file open: their command lines by process id; only those one may look into."""
    files, found = {os.path.realpath(path) for pattern in patterns for path in glob.glob(pattern)}, {}
    for link in glob.glob(f"{processes}/[0-9]*/fd/*") if files else ():
        process = pathlib.Path(link).parents[1]
        try:
            if int(process.name) != os.getpid() and os.path.realpath(link) in files:
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(process.name)] = line.decode(errors="replace").strip()
        except OSError:  # it has ended meanwhile, or is another user's
            continue
    return found


def check_holders(found: Mapping[int, str]) -> Finding:
    """Whether another process has the TPU, of which there can be one."""
    if not found:
        return Finding("ok", "no other process holds a TPU here")
    names = "; ".join(f"{process} ({line[:80]})" for process, line in found.items())
    mend = f"wait for it, or end it: kill {' '.join(map(str, found))}"
    return Finding("broken", f"the TPU is held by process {names}", mend)


def check_devices(kind: str, count: int, chips: int, gpu: bool, environment: Mapping[str, str]) -> Finding:
    """Whether jax sees the accelerators that are plugged in.

    Args:
      kind: jax's platform, such as "tpu".
      count: of its devices on this host.
      chips: TPU chips plugged into this host.
      gpu: whether there is a GPU.
      environment: of the process.
    """
    plugged = f"{chips} TPU chips" if chips else "a GPU" if gpu else ""
    if plugged and kind == "cpu":
        chosen = environment.get("JAX_PLATFORMS", "")
        install = f"pip install -e '.[{'tpu' if chips else 'gpu'}]', and see the warning that jax printed above"
        mend = f"JAX_PLATFORMS={chosen} is set: unset JAX_PLATFORMS" if chosen else install
        return Finding("broken", f"this host has {plugged}, but jax computes on its CPU", mend)
    if chips > count:
        mend = "unset TPU_VISIBLE_CHIPS, TPU_CHIPS_PER_PROCESS_BOUNDS and TPU_PROCESS_BOUNDS; else create the TPU anew"
        return Finding("broken", f"jax sees {count} devices of {chips} TPU chips", mend)
    return Finding("ok", f"jax sees {count} {kind} device{'s' if count > 1 else ''}")


def check_disk(folder: epath.PathLike) -> Finding:
    """Whether the local disk has space."""
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:,.0f} GB free on the disk of {folder}"
    if free > LITTLE_SPACE:
        return Finding("ok", text)
    mend = f"see what takes it: du -xhd1 {folder} | sort -h; old trees are in ~/bert-vit-jax/trees"
    return Finding("broken" if free < NO_SPACE else "note", text, mend)


def check_folder(folder: epath.PathLike) -> Finding:
    """Whether a folder, local or of a bucket, can be written and read, and whether its clock is ours."""
    probe = epath.Path(folder) / f".doctor.{uuid.uuid4().hex}"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_text(probe.name)
        written, now = probe.stat().mtime, time.time()
        same = probe.read_text() == probe.name
        probe.unlink()
    except Exception as error:  # each file system has errors of its own
        bucket = (
            "the hosts' service account needs the role Storage Object Admin on the bucket, and scope cloud-platform: "
            "tpu_setup/README.md, Buckets"
        )
        mend = bucket if "://" in str(folder) else f"choose another --workdir, or: chmod u+rwx {folder}"
        return Finding("broken", f"{folder} cannot be used: {type(error).__name__}: {str(error)[:300]}", mend)
    if not same:
        return Finding("broken", f"{folder} gives back something else than was written", "choose another --workdir")
    off = abs(now - written)
    if off > CLOCK_SECONDS:
        return Finding("note", f"{folder} can be used, but its clock differs by {off:.0f} s", CLOCK_MEND)
    return Finding("ok", f"{folder} can be written and read")


CLOCK_MEND = "on the host that is wrong: sudo systemctl restart chrony (or systemd-timesyncd)"


def describe_code() -> dict[str, Any]:
    """What must be the same on all hosts: the commit, and the versions of Python and the libraries."""
    versions: dict[str, Any] = {"commit": _commit(), "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = None
    return versions


def _commit():
    if (ROOT / ".commit").exists():  # left by tpu_setup, where there is no repository
        return (ROOT / ".commit").read_text().strip()
    try:
        found = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
