"""Several real processes of one command on this machine, as a scheduler would start them on several hosts."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import pytest

# Little to compute and to compile: XLA's flags take half the time from a process.
FLAGS = {
    "width": 16,
    "depth": 1,
    "heads": 2,
    "mlp_width": 32,
    "vocab_size": 120,
    "sequence_length": 16,
    "maximum_positions": 16,
    "global_batch_size": 8,
    "learning_rate": 1e-3,
    "warmup_steps": 1,
    "schedule": "constant",  # so that a longer run begins like a shorter one
    "epsilon": 1e-2,  # or Adam would turn the rounding errors of gradients near 0 into whole steps
    "steps": 6,
    "log_every": 1,
    "checkpoint_every": 3,
    "evaluate_every": 0,
    "evaluation_passes": 1,
    "held_out": 0.2,
    "silence_seconds": 10,
}
ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


class ProcessGroup:
    """Processes that run one command together."""

    def __init__(
        self, commands: list[list[str]], devices: int, folders: list[pathlib.Path | None], port: int, logs: pathlib.Path
    ):
        self._logs = [logs / str(index) for index in range(len(commands))]
        self.processes: list[subprocess.Popen] = []
        shared = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
        shared |= {"PYTHONPATH": os.getcwd()}
        for index, (command, folder, log) in enumerate(zip(commands, folders, self._logs, strict=True)):
            place = {ADDRESS: f"localhost:{port}", COUNT: str(len(commands)), INDEX: str(index)}
            environment = os.environ | shared | (place if len(commands) > 1 else {})
            line = [sys.executable, "-m", *command]
            with log.open("w") as output:
                self.processes.append(
                    subprocess.Popen(line, env=environment, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
                )

    def finish(self, seconds: float = 150) -> tuple[list[int], list[str]]:
        """Exit codes and outputs; processes that hang are killed, and fail the test with all that they printed."""
        end = time.monotonic() + seconds
        try:
            for process in self.processes:
                process.wait(max(end - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            codes = [process.poll() for process in self.processes]
            self.kill()
            pytest.fail(f"hung, exit codes {codes}:\n" + "\n---\n".join(self.outputs()))
        return [process.returncode for process in self.processes], self.outputs()

    def outputs(self) -> list[str]:
        return [log.read_text() for log in self._logs]

    def wait_until(self, condition: Callable[[], bool], seconds: float = 150) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end or any(process.poll() is not None for process in self.processes):
                self.kill()
                pytest.fail("it did not come so far:\n" + "\n---\n".join(self.outputs()))
            time.sleep(0.02)

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def group(
    arguments: list[str] | list[list[str]],
    count: int = 1,
    *,
    devices: int = 1,
    command: str = "experiments.pretrain",
    folders: list[pathlib.Path] | None = None,
) -> Iterator[ProcessGroup]:
    """Starts a command in `count` processes of so many devices each; none of them outlives the block.

    Args:
      arguments: of the command, or those of each process.
      folders: that each starts in.
    """
    each: list = arguments if isinstance(arguments[0], list) else [arguments] * count
    # Bound, but not listening: the port stays ours until process 0 takes it, which may do so beside us.
    with socket.socket() as reserved, tempfile.TemporaryDirectory() as logs:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("", 0))
        port = reserved.getsockname()[1]
        commands, logs = [[command, *flags] for flags in each], pathlib.Path(logs)
        processes = ProcessGroup(commands, devices, [*(folders or [None] * count)], port, logs)
        try:
            yield processes
        finally:
            processes.kill()


def run_group(*arguments, **settings) -> tuple[list[int], list[str]]:
    """Starts a command and waits for its end; gives exit codes and outputs."""
    with group(*arguments, **settings) as processes:
        return processes.finish()
