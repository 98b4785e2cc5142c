"""The processes of one run, who tell each other what happens through the key-value store of jax's coordinator.

Nothing here touches a device: a thread looks a few times a second, and says that its own process lives.
"""

import contextlib
import dataclasses
import json
import os
import sys
import threading
import time
from typing import Any, NoReturn

import jax

from core_jax.errors import UserError

USER_ERROR, FAILED = 2, 1  # exit codes
GRACE_SECONDS = 3.0  # for the main thread to end by itself, once the run is to end
UNWINDING_SECONDS = 60.0  # if it has begun to
PLACE_SECONDS = 5.0  # that processes which hang wait for each other to say where


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a run ends on all processes."""

    code: int  # that every process exits with
    message: str
    process: int  # that said so


class PeerError(RuntimeError):
    """Another process ended the run, and has said why."""

    def __init__(self, failure: Failure):
        super().__init__(failure.message)
        self.code = failure.code


class Peers:
    """This process and the others."""

    def __init__(self, client: Any, index: int, count: int, silence_seconds: float):
        """Begins to watch; all processes do so at the same time.

        Args:
          client: of jax's coordination service.
          index: of this process.
          count: of all processes.
          silence_seconds: without a sign of life, after which a process is dead and the run ends.
        """
        self.index, self.count = index, count
        self.failure: Failure | None = None
        self.stop_signal: int | None = None  # that one of the processes got; known to all once they stop
        self._client, self._silence_seconds = client, silence_seconds
        self._pause = max(min(0.25, silence_seconds / 10), count / 500)  # the more there are, the less often each asks
        self._asked: int | None = None
        self._turn = threading.Condition()
        self._calls, self._stop_at, self._agreeing = 0, sys.maxsize, False
        self._exchanges, self._beats = 0, 0
        self._seen = {peer: ("", time.monotonic()) for peer in range(1, count)}
        self._unwinding, self._leaving = False, threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peers", daemon=True)
        self._thread.start()

    # What the main thread calls.

    def exchange(self, value: str) -> list[str]:
        """Gives a text and returns those of all processes, in their order; all call it at the same point.

        Raises:
          UserError, PeerError: a process ended the run instead.
        """
        self._exchanges += 1
        folder = f"exchange/{self._exchanges}"
        self._set(f"{folder}/{self.index}", value)
        if self.index == 0:
            texts = [self._wait_for(f"{folder}/{peer}") for peer in range(self.count)]
            self._set(f"{folder}/all", json.dumps(texts))
        return json.loads(self._wait_for(f"{folder}/all"))

    def _wait_for(self, key):
        while True:
            if self.failure is not None:
                self._unwinding = True
                raise UserError(self.failure.message) if self.failure.code == USER_ERROR else PeerError(self.failure)
            try:
                return self._client.blocking_key_value_get(key, 500)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise

    def ask_to_stop(self, signal: int) -> None:
        """Asks all processes to stop; safe in a signal handler."""
        self._asked = signal

    def stopping(self) -> bool:
        """True from the same call on, counted from the start, on every process; all call it at the same points.

        While the processes agree on the call, the first that none has made yet, this waits.
        """
        with self._turn:
            self._turn.wait_for(lambda: not self._agreeing)
            self._calls += 1
            return self._calls >= self._stop_at

    def announce(self, code: int, message: str) -> bool:
        """Ends the run on all processes; False if it was ended before, so that one message is enough."""
        failure = Failure(code, message, self.index)
        try:
            self._client.key_value_set("notice/failure", json.dumps(dataclasses.asdict(failure)))
        except jax.errors.JaxRuntimeError:  # another process was first, or the coordinator is gone, and jax tells
            return False
        self.failure = failure
        return True

    def silent(self) -> list[int]:
        """The processes that give no sign of life, found within seconds; for the moment when something has failed."""
        before = self._read("beat")
        time.sleep(12 * self._pause)
        after = self._read("beat")
        return [peer for peer in range(self.count) if before.get(str(peer)) == after.get(str(peer)) != "left"]

    def compare_places(self, place: str) -> dict[int, str]:
        """Says where this process is, and returns what each says within seconds; for when all seem to wait."""
        self._set(f"place/{self.index}", place)
        end = time.monotonic() + PLACE_SECONDS
        while time.monotonic() < end and len(self._read("place")) < self.count:
            time.sleep(self._pause)
        told = self._read("place")
        return {peer: told.get(str(peer), "goes on, or does not say") for peer in range(self.count)}

    def forget_place(self) -> None:
        """Takes back what `compare_places` said."""
        self._client.key_value_delete(f"place/{self.index}")

    def abandon(self, code: int) -> NoReturn:
        """Exits at once, without waiting for the other processes as a good end does.

        The coordinator lives in process 0: it goes last, or jax would abort the others.
        """
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        if self.index == 0:
            waiting, silent = set(range(1, self.count)), self.silent()
            end = time.monotonic() + GRACE_SECONDS + 8 * self._pause
            while waiting - set(silent) - set(map(int, self._read("gone"))) and time.monotonic() < end:
                time.sleep(0.05)
            time.sleep(0.2)
        else:
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                self._set(f"gone/{self.index}", "")
        os._exit(code)

    def leave(self) -> None:
        """Stops to watch, at the good end of a run."""
        self._leaving.set()
        self._thread.join()
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._set(f"beat/{self.index}", "left")
            self._set(f"calls/{self.index}", str(self._calls))

    # What the thread does.

    def _watch(self):
        answered = time.monotonic()
        while not self._leaving.wait(0.02 if self._agreeing else self._pause):
            try:
                self._look()
                answered = time.monotonic()
            except jax.errors.JaxRuntimeError:  # jax itself ends the process at once if the coordinator is gone
                if time.monotonic() - answered > self._silence_seconds:
                    print(self._obituary([0]), file=sys.stderr, flush=True)
                    os._exit(FAILED)

    def _look(self):
        self._beats += 1
        self._set(f"beat/{self.index}", str(self._beats))
        notices = self._notices()
        if "failure" in notices and self.failure is None:
            self.failure = Failure(**json.loads(notices["failure"]))
            self._exit(self.failure)
        if self.index == 0 and self.failure is None:
            self._look_for_the_dead()
        if self._asked is not None and "stop" not in notices:
            self._set("notice/stop", str(self._asked))
        if "stop" in notices and self._stop_at == sys.maxsize:
            self._agree(int(notices["stop"]))

    def _agree(self, signal):
        with self._turn:
            if not self._agreeing:
                self._agreeing = True
                self._set(f"calls/{self.index}", str(self._calls))
        calls = self._read("calls")
        if len(calls) == self.count:
            with self._turn:
                self.stop_signal, self._stop_at = signal, max(map(int, calls.values())) + 1
                self._agreeing = False
                self._turn.notify_all()

    def _look_for_the_dead(self):
        beats, now = self._read("beat"), time.monotonic()
        for peer, (beat, since) in self._seen.items():
            found = beats.get(str(peer), "")
            if found in (beat, "left"):
                if found != "left" and now - since > self._silence_seconds:
                    self.report_dead([peer])
                    self._exit(Failure(FAILED, "", self.index))
            else:
                self._seen[peer] = found, now

    def report_dead(self, peers: list[int]) -> None:
        """Ends the run on all because processes have died, and says so, if nobody has."""
        message = self._obituary(peers)
        if self.announce(FAILED, message):
            print(message, file=sys.stderr, flush=True)

    def _obituary(self, peers):
        return (
            f"error: process {' and '.join(map(str, peers))} of {self.count} has died or does not answer: see its own "
            "log. Start the same command on all hosts again, and it goes on from the last checkpoint"
        )

    def _exit(self, failure):
        """Ends the process if the main thread does not, which may wait for ever for one that is gone."""
        end = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < end + (UNWINDING_SECONDS if self._unwinding else 0):
            self._set(f"beat/{self.index}", str(time.monotonic()))
            time.sleep(min(self._pause, 0.1))
        self.abandon(failure.code)

    def _set(self, key, value):
        overwrite = key.startswith(("beat/", "place/"))
        try:
            self._client.key_value_set(key, value, allow_overwrite=overwrite)
        except jax.errors.JaxRuntimeError as error:
            if "ALREADY_EXISTS" not in str(error):
                raise

    def _read(self, folder):
        return {key.removeprefix(f"{folder}/"): value for key, value in self._client.key_value_dir_get(f"{folder}/")}

    def _notices(self):
        return self._read("notice")
