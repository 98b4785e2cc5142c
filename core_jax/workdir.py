"""The work folder: everything that a run leaves, written so that a killed run leaves nothing half-written."""

import contextlib
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from typing import Any, TypeVar

import jax
from etils import epath
from tensorboardX import SummaryWriter

from core_jax.atomic_files import write_atomically
from core_jax.config import differences, from_json, require, to_json
from core_jax.distributed import first_decides
from core_jax.errors import UserError

Config = TypeVar("Config")
VISIBLE_SECONDS = 5  # after which a new file shows on every host that shares the folder


def read_config(workdir: epath.PathLike, kind: type[Config]) -> Config:
    """The configuration that a run was started with.

    Raises:
      UserError: the folder holds no run, or its config.json cannot be read.
    """
    path = epath.Path(workdir) / "config.json"
    if not path.exists():
        raise UserError(f"{workdir} is not a work folder: it has no config.json; expected the --workdir of a run")
    try:
        return from_json(kind, path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); expected what a run of this version wrote") from error


def read_run_fields(workdir: epath.PathLike) -> dict[str, Any]:
    """The fields of a run's configuration, of whatever kind it is.

    Raises:
      UserError: the folder holds no run, or its config.json cannot be read.
    """
    path = epath.Path(workdir) / "config.json"
    require(
        re.match(r"(hf|tf|npz|timm|ct2):", str(workdir)) is None,
        f"{workdir} is a model of another program, for which there is no use here as it stands; expected the --workdir "
        "of a run, as experiments.finetune makes one",
    )
    require(path.exists(), f"{workdir} is not a work folder: it has no config.json; expected the --workdir of a run")
    try:
        found = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); expected what a run of this version wrote") from error
    return found if isinstance(found, dict) else {}


def claim_workdir(workdir: epath.PathLike, config: Any, flag: str = "--workdir") -> None:
    """Makes a work folder, or finds that it holds a run of the same configuration; nothing in it is changed.

    Args:
      workdir: the folder.
      config: of this run; elastic fields may differ from those of the run in the folder.
      flag: that names the folder.
    Raises:
      UserError: the folder cannot be written, is in use, holds something else, or a run of another configuration.
    """
    workdir = epath.Path(workdir)
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"{flag}={workdir} is a file; expected a folder, or the name of one to make")
    if (workdir / "config.json").exists():
        changed = differences(config, read_config(workdir, type(config)))
        if changed:
            lines = [f"  --{name}: {theirs!r} there, {ours!r} now" for name, (ours, theirs) in changed.items()]
            raise UserError(
                f"{flag}={workdir} holds a run of another configuration:\n"
                + "\n".join(lines)
                + f"\ntype the same flags to go on with it, or choose another {flag}"
            )
    elif workdir.exists() and not all(
        path.name.startswith(".") or path.name == "plan.json" for path in workdir.iterdir()
    ):
        raise UserError(f"{flag}={workdir} is not empty and holds no run; choose a new or an empty folder")
    if jax.process_index() == 0:
        _prove_writable(workdir, flag)


def _prove_writable(workdir, flag):
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".probe.{uuid.uuid4().hex}"
        probe.write_text("probe")
        probe.unlink()
    except OSError as error:
        raise UserError(f"{flag}={workdir} cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def filling(workdir: epath.PathLike, config: Any) -> Iterator[None]:
    """While a work folder is filled: a new one gets its config.json at once, so that a killed run can go on.

    If a mistake of the user shows meanwhile, a new folder is emptied again, so that the mended command can use it; one
    that held a run before is left as it is.
    """
    workdir = epath.Path(workdir)
    is_new = not (workdir / "config.json").exists()
    if is_new:
        save_config(workdir, config)
    try:
        yield
    except UserError:
        if is_new and jax.process_index() == 0:
            for path in workdir.iterdir():
                path.rmtree() if path.is_dir() else path.unlink()
        raise
    save_config(workdir, config)  # elastic fields may have changed


def check_shared(workdir: epath.PathLike) -> None:
    """Refuses a work folder that is another one on every host; all processes must call this.

    Raises:
      UserError: what the first process writes there, another does not see.
    """
    if jax.process_count() == 1:
        return
    workdir = epath.Path(workdir)

    def mark():
        name = f".shared.{uuid.uuid4().hex}"
        (workdir / name).touch()
        return name

    path = workdir / first_decides(mark)
    try:
        end = time.monotonic() + VISIBLE_SECONDS
        while not path.exists():
            if time.monotonic() > end:
                raise UserError(
                    f"--workdir={workdir} on {socket.gethostname()} is another folder than that of the first process: "
                    "give one that all hosts share, on a network file system"
                )
            time.sleep(0.1)
        first_decides(lambda: None)  # all have seen it
    finally:
        if jax.process_index() == 0:
            path.unlink(missing_ok=True)


def check_space(workdir: epath.PathLike, needed: int) -> None:
    """Raises UserError where a local disk has fewer than `needed` bytes left."""
    if "://" in str(workdir):
        return
    free = shutil.disk_usage(workdir).free
    if free < needed:
        raise UserError(
            f"--workdir={workdir}: the disk has {free / 1e6:,.0f} MB left, but checkpoints of this run need "
            f"{needed / 1e6:,.0f} MB: free some, choose another --workdir or fewer --keep_checkpoints"
        )


def save_config(workdir: epath.PathLike, config: Any) -> None:
    """Writes config.json, complete and re-loadable."""
    if jax.process_index() == 0:
        write_atomically(epath.Path(workdir) / "config.json", to_json(config) + "\n")


def read_records(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, oldest first, also of a run under way; none where there is no such file."""
    return [json.loads(line) for line in _whole_lines(epath.Path(workdir) / "metrics.jsonl")]


def _whole_lines(path: epath.Path) -> list[str]:
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [line for line in lines[:-1] if line]  # what follows the last line end was cut off by a kill


class Recorder:
    """metrics.jsonl and TensorBoard, written by the first process."""

    def __init__(self, workdir: epath.PathLike, first_step: int):
        """Opens the records of a run that goes on from `first_step`: lines of later steps will be written again.

        Args:
          workdir: the work folder.
          first_step: number of steps already taken.
        """
        self._active = jax.process_index() == 0
        if not self._active:
            return
        self._path = epath.Path(workdir) / "metrics.jsonl"
        self._lines = [line for line in _whole_lines(self._path) if json.loads(line)["step"] <= first_step]
        self._rewrite()
        # A name of its own: two starts within a second would otherwise write to the same file.
        self._board = SummaryWriter(
            os.path.join(workdir, "tensorboard"), purge_step=first_step + 1, filename_suffix=f".{uuid.uuid4().hex}"
        )

    def _rewrite(self):
        write_atomically(self._path, "".join(f"{line}\n" for line in self._lines))

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Adds one line and as many TensorBoard scalars.

        Args:
          step: number of steps taken.
          split: `train` or `held_out`.
          values: by name.
        """
        if not self._active:
            return
        line = json.dumps({"step": step, "split": split} | values)
        self._lines.append(line)
        if "://" in str(self._path):
            self._rewrite()  # object stores cannot append
        else:
            with open(self._path, "a") as file:
                file.write(line + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Writes what is left."""
        if self._active:
            self._board.close()
