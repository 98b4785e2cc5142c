"""Runs the processes of the modes: all are there at once, one computes at a time, round after round."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from experiments.benchmark.modes import Mode
from experiments.benchmark.report import Cell
from experiments.benchmark.workplace import Workplace

LOG_LINES = 20  # of a process that failed, to show


class WorkerError(RuntimeError):
    """A measuring process ended before it was asked to."""


class Worker:
    """The process of one mode."""

    def __init__(self, mode: Mode, work: Workplace, threads: int):
        self.mode = mode
        self._log = pathlib.Path(work.folder, f"{work.task}_{work.sequence_length}_{mode}.log")
        command = [sys.executable, "-m", "experiments.benchmark.worker"]
        command += [str(mode), work.folder, work.task, str(work.sequence_length)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                env=environment(threads),
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def ask(self, request: Any) -> dict[str, Any]:
        """Sends a request and waits for the answer.

        Raises:
          WorkerError: the process ended; with the end of what it printed.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with contextlib.suppress(BrokenPipeError):
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
        line = stdout.readline()
        if not line:
            code = self._process.wait()
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-LOG_LINES:])
            hint = " (perhaps there was too little memory: choose fewer --modes)" if code == -signal.SIGKILL else ""
            raise WorkerError(f"{self.mode} ended with code {code}{hint}; its last lines:\n{tail}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()


def environment(threads: int) -> dict[str, str]:
    """The same for both sides: the CPU alone, all of its cores, and memory in large pages where Linux has them."""
    kept = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    ours = {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    return {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} | kept | ours


@contextlib.contextmanager
def started(modes: list[Mode], work: Workplace, threads: int) -> Iterator[list[Worker]]:
    """The processes of some modes; none outlives this."""
    workers: list[Worker] = []
    try:
        for mode in modes:
            workers.append(Worker(mode, work, threads))
        yield workers
    finally:
        for worker in workers:
            worker.close()


def measure(modes: list[Mode], work: Workplace, rounds: int, threads: int, say: Callable[[str], None]) -> Cell:
    """Measures one task at one length.

    Args:
      modes: each in a process of its own.
      work: where the batches are.
      rounds: turns of every mode.
      threads: of torch.
      say: is told what is going on.
    Raises:
      WorkerError: a process failed.
    """
    cell = Cell(work.task, work.sequence_length)
    with started(modes, work, threads) as workers:
        for worker in workers:
            say(f"{work.task} at {work.sequence_length}: {worker.mode} compiles and warms up")
            ready = worker.ask("prepare")
            cell.checks[str(worker.mode)], cell.warm_ups[str(worker.mode)] = ready["check"], ready["warm_up_seconds"]
        for number in range(rounds):
            # Every other round backwards, so that no mode always follows the same one.
            for worker in workers if number % 2 == 0 else reversed(workers):
                cell.add(str(worker.mode), worker.ask(number))
            say(f"{work.task} at {work.sequence_length}: round {number + 1} of {rounds}")
    return cell
