from typing import Any

import jax
import jax.numpy as jnp
import pytest

from core_jax.stopwatch import Stopwatch


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Step:
    """The result of a step that runs until `done`."""

    __class__: Any = jax.Array  # for the checks of annotations  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(self):
        self.done = False

    def is_ready(self):
        return self.done


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def stopwatch(clock):
    return Stopwatch(clock)


def arriving(clock, seconds, then=lambda: None):
    """A batch that takes some seconds to come."""
    clock.now += seconds
    then()
    yield "batch"


def test_a_wait_counts_only_when_nothing_runs(clock, stopwatch):
    assert stopwatch.next_batch(arriving(clock, 3), running=None) == "batch"
    assert stopwatch.seconds["data_wait"] == 3
    stopwatch.next_batch(arriving(clock, 4), running={"loss": jax.block_until_ready(jnp.zeros(()))})
    assert stopwatch.seconds["data_wait"] == 7
    step = Step()
    stopwatch.next_batch(arriving(clock, 5), running={"loss": step})
    assert (stopwatch.seconds["data_wait"], stopwatch.seconds["step"]) == (7, 5)  # the devices were busy
    stopwatch.next_batch(arriving(clock, 6, lambda: setattr(step, "done", True)), running={"loss": step})
    assert stopwatch.seconds["data_wait"] == 13  # it ended meanwhile: the whole wait counts, an upper bound


def test_spans_are_added_up_by_reason(clock, stopwatch):
    for name, seconds in (("compile", 2), ("checkpoint", 3), ("checkpoint", 4), ("step", 5)):
        with stopwatch.span(name):
            clock.now += seconds
    assert stopwatch.seconds == {"step": 5, "compile": 2, "data_wait": 0, "checkpoint": 7, "evaluation": 0}


def test_laps_leave_spans_out(clock, stopwatch):
    clock.now += 10
    with stopwatch.span("evaluation"):
        clock.now += 100
    with stopwatch.span("step"):  # a lap is of steps
        clock.now += 5
    assert stopwatch.lap() == 15
    clock.now += 2
    stopwatch.next_batch(arriving(clock, 1), running=None)  # waiting for data is part of a lap
    assert stopwatch.lap() == 3
    assert stopwatch.lap() == 1e-6


def test_shares_are_of_all_the_time(clock, stopwatch):
    clock.now += 1
    with stopwatch.span("step"):
        clock.now += 5
    with stopwatch.span("compile"):
        clock.now += 2
    stopwatch.next_batch(arriving(clock, 2), running=None)
    stopwatch.lap()  # changes nothing
    assert stopwatch.total() == 10
    shares = stopwatch.shares()
    assert shares.pop("goodput") == shares["step_share"]
    assert shares == {
        "step_share": 0.5,
        "compile_share": 0.2,
        "data_wait_share": 0.2,
        "checkpoint_share": 0.0,
        "evaluation_share": 0.0,
        "other_share": pytest.approx(0.1),
    }
    assert sum(shares.values()) == pytest.approx(1)
