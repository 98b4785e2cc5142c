"""Runs of other commands that a comparison is made of; the same comparison goes on where it stopped."""

import subprocess
import sys

from experiments import results
from experiments.console import say


def ensure_finished(title: str, folder: str, module: str, flags: list[str]) -> int:
    """Makes a run in a process of its own, unless its folder has a summary.

    Args:
      title: what to call it.
      folder: its work folder.
      module: of the command, such as experiments.pretrain.
      flags: of the command, all but --workdir.
    Returns:
      The exit code of the command; 0 where the run was finished before.
    """
    if results.load(folder) is not None:
        return 0
    say(title)
    code = subprocess.run([sys.executable, "-m", module, *flags, f"--workdir={folder}"]).returncode
    if code:
        say(f"error: {title} ended with code {code}")
    return code
