"""Steps that really hang are reported, with the place of each process."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.hangs import HangWatch, describe_collectives
from core_jax.sharding import parse_mesh
from core_jax.stopwatch import Stopwatch
from tests import tiny_run
from tests.hanging_host import STEPS
from tests.process_group import FLAGS, group


def wait_for(path, text):
    end = time.monotonic() + 60
    while text not in path.read_text():
        assert time.monotonic() < end, path.read_text()
        time.sleep(0.05)


@pytest.mark.parametrize("phase", ["step", "data_wait"])
def test_a_hang_is_reported_once_with_step_phase_and_stacks(phase, tmp_path):
    """A computation on the device that does not end, or a source that gives nothing."""
    release, path, stopwatch = threading.Event(), tmp_path / "log", Stopwatch()

    def wait() -> np.ndarray:
        release.wait(60)
        return np.ones((), np.float32)

    def wait_on_the_device() -> None:
        step = jax.jit(lambda x: x + jax.pure_callback(wait, jax.ShapeDtypeStruct((), "float32")))
        with stopwatch.span("step"):
            jax.block_until_ready(step(jnp.ones(())))

    def wait_for_data() -> None:
        stopwatch.next_batch(iter(lambda: release.wait(60), None), None)

    hanging = {"step": wait_on_the_device, "data_wait": wait_for_data}[phase]
    with path.open("w+") as log:

        def run():
            with HangWatch(0.3, stopwatch, 11, "all-reduce of gradients over data:8", log) as watch:
                hanging()
                watch.advance(12)

        thread = threading.Thread(target=run)
        thread.start()
        wait_for(path, "Python stacks")
        time.sleep(1)
        release.set()
        thread.join()
    text = path.read_text()
    assert text.count("hang: no step has ended") == 1
    assert f"in step 12 ({phase})" in text
    assert "all-reduce of gradients over data:8" in text
    assert hanging.__name__ in text.partition("Python stacks")[2]
    assert "step 12 has ended after" in text


def test_steps_that_end_are_not_reported(tmp_path):
    path = tmp_path / "log"
    for limit in (0.0, 5.0):
        with path.open("w") as log, HangWatch(limit, Stopwatch(), 0, "", log) as watch:
            for step in range(3):
                time.sleep(0.1)
                watch.advance(step + 1)
    assert path.read_text() == ""


def test_collectives_follow_the_mesh():
    assert describe_collectives(parse_mesh("data:2,tensor:4")) == (
        "all-reduce of gradients over data:2; all-reduce of activations over tensor:4"
    )
    assert describe_collectives(parse_mesh("data:1")) == "none: there is one device"


@pytest.mark.slow
def test_the_host_that_the_others_wait_for_is_named(tmp_path):
    """The second of two processes gets no data, so that the first waits for it in a collective."""
    text = tiny_run.write_text(tmp_path / "text.txt")
    values = {"workdir": tmp_path / "run", "data": f"text:{text}"} | FLAGS | {"steps": 100, "hang_limit": 15}
    with group([f"--{name}={value}" for name, value in values.items()], 2, command="tests.hanging_host") as two:
        place = f"1: step {STEPS + 1}, data_wait"  # a busy machine may have reported slow steps before
        two.wait_until(lambda: all(place in last_report(output) for output in two.outputs()), seconds=600)
        first, second = map(last_report, two.outputs())
    assert "(data_wait): the host waits for its batch" in second
    assert "in hanging" in second.partition("Python stacks")[2]
    assert "(data_wait)" not in first
    assert "all-reduce of gradients over data:2" in first
    assert "0: step" in second


def last_report(output: str) -> str:
    return output[output.rfind("hang:") :]
