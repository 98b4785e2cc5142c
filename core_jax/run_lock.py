"""One process trains in a work folder at a time."""

import contextlib
import fcntl
import os
from collections.abc import Iterator

import jax
from etils import epath

from core_jax.errors import UserError

LOCK_FILE = ".lock"  # of a work folder


@contextlib.contextmanager
def lock(workdir: epath.PathLike, flag: str = "--workdir") -> Iterator[None]:
    """Keeps a second process from training in the same local folder.

    Raises:
      UserError: another process holds it.
    """
    if "://" in str(workdir) or jax.process_index() != 0:
        yield
        return
    with open(os.path.join(workdir, LOCK_FILE), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{flag}={workdir} is in use by another process: wait for it, or choose another") from error
        yield


def is_locked(workdir: epath.PathLike) -> bool:
    """Whether a process of this machine trains in a local folder.

    The kernel's list of locks is read: taking the lock to try it could keep a run from starting. Where there is no such
    list (it is Linux that has it), and for runs of other machines, the answer is False.
    """
    try:
        status = os.stat(os.path.join(workdir, LOCK_FILE))
        with open("/proc/locks") as file:
            held = [line.split() for line in file]
    except OSError:
        return False
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    return any("FLOCK" in line and place in line for line in held)
