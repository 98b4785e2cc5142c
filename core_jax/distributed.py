"""Several processes as one run: they start together, decide together, stop together, and fail together.

On a single host, where there is no cluster, every function here does the plain thing.
"""

import atexit
import contextlib
import ctypes
import itertools
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax

from core_jax.clusters import find_cluster
from core_jax.errors import UserError
from core_jax.peers import Peers

Value = TypeVar("Value")
CONNECT_SECONDS = 300  # that processes wait for each other at the start
_peers: Peers | None = None  # belongs to the process, as jax's own client does
_last_words: list[Any] = []  # what the handler of SIGABRT is made of: it must outlive the call that installs it


def initialise(silence_seconds: int, report: Callable[[str], None]) -> None:
    """Joins the other processes where there is a cluster; must come before anything touches a device.

    Args:
      silence_seconds: without a sign of life, after which a process counts as dead and the run ends on all.
      report: is told the place of this process, on every process.
    Raises:
      UserError: the cluster is described in part only.
    """
    global _peers
    cluster = None if _peers else find_cluster()
    if cluster is None:
        return
    index, count = cluster.process_index, cluster.process_count
    report(f"process {index} of {count} waits for the others, at most {CONNECT_SECONDS} s")
    _explain_aborts(
        f"error: not all of {count} processes met within {CONNECT_SECONDS} s: start the same command on every host, "
        "and see that they reach the address of process 0"
    )
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    jax.distributed.initialize(
        cluster.coordinator,
        count,
        index,
        initialization_timeout=CONNECT_SECONDS,
        heartbeat_timeout_seconds=2 * silence_seconds + 30,  # ours comes first, since it says who
    )
    _explain_aborts(
        f"error: process {index} of {count} was ended by jax: process 0 has died or does not answer, or see above. "
        "Start the same command on all hosts again, and it goes on from the last checkpoint"
    )
    from jax._src import distributed  # the coordinator's client has no public name

    _peers = Peers(distributed.global_state.client, index, count, silence_seconds)
    atexit.register(_peers.leave)  # after jax's own, so run before it
    report(describe_place())


def describe_place() -> str:
    """This process among all, such as `process 2 of 4 on HOST: devices 4-5 of 8`."""
    here = [place for place, device in enumerate(jax.devices()) if device.process_index == jax.process_index()]
    runs = itertools.groupby(enumerate(here), key=lambda pair: pair[1] - pair[0])  # of neighbours
    spans = [[place for _, place in run] for _, run in runs]
    texts = (f"{span[0]}-{span[-1]}" if len(span) > 1 else f"{span[0]}" for span in spans)
    return (
        f"process {jax.process_index()} of {jax.process_count()} on {socket.gethostname()}: "
        f"device{'s' if len(here) > 1 else ''} {', '.join(texts)} of {jax.device_count()}"
    )


def first_decides(decide: Callable[[], Value]) -> Value:
    """What the first process finds, on all of them: they wait for it.

    Args:
      decide: called by the first process alone; its result, None or what JSON can hold, goes to all.
    Raises:
      UserError: on all processes, if it was raised on the first.
    """
    if _peers is None:
        return decide()
    value = decide() if _peers.index == 0 else None
    return json.loads(_peers.exchange(json.dumps(value))[0])


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What fails inside on one process fails on all of them, so that they go on alike.

    Raises:
      RuntimeError: it failed on another process.
    """
    error = None
    try:
        yield
    except UserError:  # ends the run, on all processes, by itself
        raise
    except Exception as caught:
        error = caught
    if _peers is not None:
        texts = _peers.exchange("" if error is None else f"{type(error).__name__}: {error}")
        failed = [f"process {peer}: {text}" for peer, text in enumerate(texts) if text]
        if failed and error is None:
            raise RuntimeError(failed[0])
    if error is not None:
        raise error


def gather(text: str) -> list[str]:
    """Gives a text and returns those of all processes, in their order; all must call this, and wait for each other."""
    return [text] if _peers is None else _peers.exchange(text)


def compare_places(place: str) -> dict[int, str]:
    """Says where this process is, and returns what each says within seconds; {} for a single one. For any thread."""
    return {} if _peers is None else _peers.compare_places(place)


def forget_place() -> None:
    """Takes back what `compare_places` said: this process goes on."""
    if _peers is not None:
        _peers.forget_place()


def require_same(name: str, value: str) -> None:
    """Raises UserError unless all processes give the same text; `name` says what it is."""
    others = [peer for peer, text in enumerate(gather(value)) if text != value]
    if others:
        raise UserError(
            f"process {others[0]} was started with another {name} than process {jax.process_index()}: "
            "type the same command on every host"
        )


def ask_to_stop(number: int) -> None:
    """Notes a signal that asks all processes to stop; for signal handlers."""
    if _peers is not None:
        _peers.ask_to_stop(number)


def stop_signal() -> int | None:
    """The signal at which all processes stop, true from the same call on, counted from the start, on all of them.

    Every process must ask at the same points of the program: after each step, before each batch of an evaluation.
    """
    return _peers.stop_signal if _peers is not None and _peers.stopping() else None


def is_cluster() -> bool:
    """Whether this process is one of several."""
    return _peers is not None


def announce(code: int, message: str) -> bool:
    """Ends the run on all processes with an exit code; False if another has ended it and said why."""
    return _peers is None or _peers.announce(code, message)


def name_the_dead() -> bool:
    """Whether other processes have died, which an error of this one may be the echo of; if so, the run ends on all."""
    dead = [] if _peers is None else _peers.silent()
    if dead and _peers is not None:
        _peers.report_dead(dead)
    return bool(dead)


def abandon(code: int) -> None:
    """Exits at once where there are several processes; on a single one it returns."""
    if _peers is not None:
        _peers.abandon(code)


def _explain_aborts(message):
    """Puts a message and exit code 1 in the place of an abort.

    Where the coordinator is gone, or does not come, jax aborts the process from a thread of its own (SIGABRT, a trace
    of C++), and asks nobody. Python's signal handlers run in the main thread, which waits: so one of C is needed.
    """
    text = f"{message}\n".encode()

    def last_words(number):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text)
        os._exit(1)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(last_words)
    _last_words.append(handler)
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
