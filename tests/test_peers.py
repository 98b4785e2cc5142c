"""What processes tell each other: threads stand for processes, a dictionary for jax's coordinator."""

import concurrent.futures
import random
import threading
import time

import jax
import pytest

from core_jax import distributed
from core_jax.errors import UserError
from core_jax.peers import FAILED, USER_ERROR, Peers

COUNT = 3


class Store:
    """The key-value store of jax's coordinator, as far as it is used."""

    def __init__(self):
        self._values: dict[str, str] = {}
        self._changed = threading.Condition()

    def key_value_set(self, key, value, allow_overwrite=False):
        with self._changed:
            if key in self._values and not allow_overwrite:
                raise jax.errors.JaxRuntimeError(f"ALREADY_EXISTS: {key}")
            self._values[key] = value
            self._changed.notify_all()

    def key_value_dir_get(self, folder):
        with self._changed:
            return [(key, value) for key, value in self._values.items() if key.startswith(folder)]

    def blocking_key_value_get(self, key, milliseconds):
        with self._changed:
            if not self._changed.wait_for(lambda: key in self._values, milliseconds / 1000):
                raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED")
            return self._values[key]


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def exits(monkeypatch):
    """The exit codes of those who exited; in a test their threads end instead."""
    codes: dict[int, int] = {}

    def end(peer, code):
        codes[peer.index] = code
        peer._leaving.set()

    monkeypatch.setattr(Peers, "abandon", end)
    monkeypatch.setattr("core_jax.peers.GRACE_SECONDS", 0.1)
    monkeypatch.setattr("core_jax.peers.UNWINDING_SECONDS", 0.1)
    return codes


@pytest.fixture
def peers(store, exits):
    """Three that live."""
    members = [Peers(store, index, COUNT, silence_seconds=1.0) for index in range(COUNT)]
    yield members
    for member in members:
        member.leave()


def on_all(members, function):
    """Calls a function of each member, all at the same time."""
    with concurrent.futures.ThreadPoolExecutor(len(members)) as pool:
        return list(pool.map(function, members))


def test_all_learn_what_each_gives_in_order(peers):
    for round in range(3):
        expected = [f"{index} in {round}" for index in range(COUNT)]
        assert on_all(peers, lambda peer, round=round: peer.exchange(f"{peer.index} in {round}")) == [expected] * COUNT


@pytest.mark.parametrize("asked", range(COUNT))
def test_all_stop_at_the_same_call(asked, peers):
    """However far apart they are when one of them is asked."""

    def work(peer):
        chance, calls = random.Random(peer.index), 0
        while not peer.stopping():
            calls += 1
            time.sleep(chance.uniform(0, 0.002 * (1 + 3 * peer.index)))
            if peer.index == asked and calls == 20:
                peer.ask_to_stop(15)
        return calls, peer.stop_signal, peer.stopping()

    outcomes = on_all(peers, work)
    assert len(set(outcomes)) == 1
    calls, signal, still = outcomes[0]
    assert calls >= 20
    assert (signal, still) == (15, True)


def test_a_request_after_the_last_call_of_one_stops_none(peers):
    """One has finished its work: the others do so too, or they would wait for it."""
    for _ in range(5):
        assert not peers[1].stopping()
    peers[1].leave()
    peers[0].ask_to_stop(15)
    time.sleep(1)
    assert not any(peer.stopping() for peer in (peers[0], peers[2]) for _ in range(5))


def test_a_mistake_of_one_ends_those_who_wait(peers):
    assert peers[0].announce(USER_ERROR, "no such file")

    def wait(peer):
        with pytest.raises(UserError, match="no such file"):
            peer.exchange("")

    on_all(peers[1:], wait)
    assert not peers[2].announce(FAILED, "another, which would be a second message")


def test_the_dead_are_named(peers, exits, capfd):
    peers[2]._leaving.set()  # stops its thread, and says no goodbye
    peers[2]._thread.join()
    deadline = time.monotonic() + 30
    while len(exits) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert exits == {0: FAILED, 1: FAILED}
    assert capfd.readouterr().err.count("process 2 of 3 has died") == 1
    assert peers[1].silent() == [0, 1, 2]  # the threads of the others have ended by now


def test_what_fails_on_one_fails_on_all(peers, monkeypatch):
    """`together` gives the error itself where it happened, and its text elsewhere."""
    local = threading.local()
    monkeypatch.setattr(distributed, "_peers", Current(local))

    def work(peer):
        local.peer = peer
        try:
            with distributed.together():
                if peer.index == 1:
                    raise KeyError("lost")
        except Exception as error:
            return type(error), str(error)
        return None

    wrapped = (RuntimeError, "process 1: KeyError: 'lost'")
    assert on_all(peers, work) == [wrapped, (KeyError, "'lost'"), wrapped]
    monkeypatch.setattr(distributed, "_peers", None)
    with pytest.raises(KeyError), distributed.together():
        raise KeyError("lost")


class Current:
    """The peer of the thread that asks."""

    def __init__(self, local):
        self._local = local

    def __getattr__(self, name):
        return getattr(self._local.peer, name)
