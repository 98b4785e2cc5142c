"""What stands between a person and the commands: flags in, one message and an exit code out."""

import errno
import os
import subprocess
import sys

from bert_jax.config import PRESETS
from experiments.console import StepProgress, console, parse_preset


def test_home_folder_in_flags(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    config = parse_preset(["bert-mini", "--init=~/run", "--workdir", "a~b"], PRESETS, "bert-tiny", "")
    assert (config.init, config.training.workdir) == ("/home/ada/run", "a~b")


def test_full_disk_has_the_last_word():
    """The message stands at the end, though a thread that fails later would print its own."""
    code = f"""
import threading, time
from experiments.console import run_command
def late():
    time.sleep(0.5)
    raise OSError("noise")
def main(arguments):
    threading.Thread(target=late).start()
    raise OSError({errno.ENOSPC}, "No space left on device")
run_command(main)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ}, timeout=120)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("free some and type the same command again")


def test_bar_says_compiling_until_the_first_step(monkeypatch):
    monkeypatch.setattr(console, "_force_terminal", True)
    progress = StepProgress(0, 10)
    assert progress._bar.tasks[0].description == "compiling"
    progress.advance(1)
    assert progress._bar.tasks[0].description == ""
    progress.report(2, {"loss": 1.5}, ["loss"])
    progress.advance(3)
    assert progress._bar.tasks[0].description == "loss 1.5000"
