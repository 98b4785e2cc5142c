import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.config import OptimizerConfig
from core_jax.optimizers import make_optimizer
from core_jax.sharding import global_batch, parse_mesh, tree_shardings
from core_jax.stopwatch import Stopwatch
from core_jax.train import (
    Cadence,
    Hooks,
    NonFiniteLossError,
    State,
    abstract_state,
    compile_step,
    create_state,
    fit,
    make_step,
)

MESH = parse_mesh("data:8")
OPTIMIZER = make_optimizer(OptimizerConfig(learning_rate=0.1, warmup_steps=2), 20)


def init(key):
    return {"dense": {"kernel": jax.random.normal(key, (4,)), "bias": jnp.ones(())}}


def loss(params, batch, key):
    """A regression with noise; `useful_positions` and `useful_flops` as text has them."""
    noise = jax.random.normal(key)
    error = batch["x"] @ params["dense"]["kernel"] + params["dense"]["bias"] - batch["y"] + 0.1 * noise
    total, count = jnp.sum(jnp.sqrt(batch["scale"]) * error**2), jnp.float32(len(error))
    useful = {"useful_positions": (jnp.float32(5), jnp.float32(8)), "useful_flops": (jnp.float32(3), jnp.float32(4))}
    return total / count, {"noise": (noise, jnp.ones(()))} | useful


def batch_of(number, scale=1.0):
    random = np.random.default_rng(number)
    x, y = (random.normal(size=shape).astype(np.float32) for shape in ((8, 4), (8,)))
    return {"x": x, "y": y, "scale": np.full(8, scale, np.float32)}


def batches(first, last, scales=None):
    for number in range(first, last):
        yield global_batch(batch_of(number, (scales or {}).get(number, 1.0)), MESH)


@functools.cache
def step():
    return compile_step(make_step(loss, OPTIMIZER), tree_shardings(abstract_state(init, OPTIMIZER), MESH))


@functools.cache
def first_state():
    return create_state(init, OPTIMIZER, MESH, seed=0)


def fresh():
    return jax.tree.map(lambda leaf: leaf.copy(), first_state())


class Notes:
    """Hooks that write down what they are called with."""

    def __init__(self, stop_after=None):
        self.records, self.evaluated, self.saved, self.advanced, self.states = {}, [], [], [], {}
        self._stop_after = stop_after

    def hooks(self):
        return Hooks(
            record=lambda number, values: self.records.update({number: values}),
            evaluate=lambda number, state: self.evaluated.append(number),
            save=self._save,
            advance=self.advanced.append,
            stopping=lambda: self._stop_after is not None and len(self.advanced) >= self._stop_after,
        )

    def _save(self, number, state):
        assert int(state.step) == number
        self.saved.append(number)
        self.states[number] = jax.tree.map(lambda leaf: leaf.copy(), state)


def run(notes, state=None, last=10, cadence=(3, 4, 5), stream=None):
    state = fresh() if state is None else state
    with jax.set_mesh(MESH):
        return fit(
            state,
            step(),
            batches(int(state.step), last) if stream is None else stream,
            last_step=last,
            cadence=Cadence(*cadence),
            hooks=notes.hooks(),
            stopwatch=Stopwatch(),
        )


def bits(state: State):
    fields = (state.step, state.params, state.opt, jax.random.key_data(state.key))
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(fields)]


def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit():
    straight, resumed = Notes(), Notes()
    end = run(straight, cadence=(1, 0, 5))
    middle = bits(straight.states[5])
    again = run(resumed, state=straight.states[5], cadence=(1, 0, 5))
    assert bits(again) == bits(end) != middle
    assert sorted(resumed.records) == [6, 7, 8, 9, 10]
    for number, values in resumed.records.items():
        for name in ("loss", "gradient_norm", "noise"):
            assert values[name] == straight.records[number][name]


def test_cadences():
    notes = Notes()
    run(notes)
    assert sorted(notes.records) == [3, 6, 9, 10]
    assert notes.evaluated == [4, 8]
    assert notes.saved == [5, 10]
    assert notes.advanced == list(range(1, 11))


def test_the_last_step_is_logged_and_saved_once_and_scored_by_the_caller():
    notes = Notes()
    run(notes, last=8, cadence=(4, 4, 4))
    assert (sorted(notes.records), notes.evaluated, notes.saved) == ([4, 8], [4], [4, 8])
    notes = Notes()
    run(notes, last=7, cadence=(100, 0, 0))
    assert (sorted(notes.records), notes.evaluated, notes.saved) == ([7], [], [7])


def test_a_finished_run_does_nothing():
    notes, state = Notes(), fresh()
    assert run(notes, state=state, last=0) is state
    assert (notes.records, notes.saved, notes.advanced) == ({}, [], [])


@pytest.mark.parametrize("save_every", [0, 2, 4, 3])
def test_stops_when_asked_and_saves_exactly_once_there(save_every):
    notes, stream = Notes(stop_after=4), batches(0, 10)
    state = run(notes, cadence=(100, 0, save_every), stream=stream)
    assert int(state.step) == 4
    assert notes.saved == [*(number for number in range(1, 4) if save_every and number % save_every == 0), 4]
    np.testing.assert_array_equal(next(stream)["x"], batch_of(4)["x"])  # none was drawn in vain
    assert bits(run(Notes(), state=state)) == bits(run(Notes()))


def test_records_are_means_over_their_stretch():
    every, few = Notes(), Notes()
    run(every, cadence=(1, 0, 0))
    run(few, cadence=(4, 0, 0))
    for number, stretch in ((4, range(1, 5)), (8, range(5, 9)), (10, range(9, 11))):
        for name in ("loss", "noise", "gradient_norm"):
            expected = np.mean([every.records[step][name] for step in stretch])
            assert few.records[number][name] == pytest.approx(expected, rel=1e-12)
        values = few.records[number]
        assert values["useful_positions"] == 5 / 8
        assert values["useful_tokens_per_second"] == pytest.approx(5 * values["steps_per_second"])
        assert values["model_flops_per_second"] == pytest.approx(3 * values["steps_per_second"])


@pytest.mark.parametrize("scale", [-1.0, math.inf])  # by its root a loss of NaN, and of infinity
@pytest.mark.parametrize(("log_every", "save_every", "seen"), [(1, 0, 4), (100, 5, 5), (100, 0, 10), (2, 2, 4)])
def test_a_loss_that_is_not_finite_is_never_saved(scale, log_every, save_every, seen):
    notes = Notes()
    with pytest.raises(NonFiniteLossError, match=rf"became (nan|inf) by step {seen};"):
        run(notes, cadence=(log_every, 0, save_every), stream=batches(0, 10, {3: scale}))
    assert all(number <= 3 for number in notes.saved)
    assert all(math.isfinite(values["loss"]) for values in notes.records.values())


def test_stopping_does_not_save_what_is_not_finite():
    notes = Notes(stop_after=5)
    with pytest.raises(NonFiniteLossError):
        run(notes, cadence=(100, 0, 0), stream=batches(0, 10, {3: -1.0}))
    assert notes.saved == []


def test_a_finite_loss_with_a_gradient_that_is_not_is_never_saved():
    def root(params, batch, key):  # 0 at 0, where its slope is infinite
        return jnp.sqrt(jnp.sum(params["kernel"] * batch["x"])), {}

    params = {"kernel": jnp.zeros(2)}
    state = State(jnp.zeros((), jnp.int32), params, OPTIMIZER.init(params), jax.random.key(0))
    notes = Notes()
    hooks, cadence = notes.hooks(), Cadence(100, 0, 1)
    stream = iter([{"x": jnp.ones(2)}] * 3)
    with pytest.raises(NonFiniteLossError, match="gradient norm became inf by step 1"):
        fit(
            state,
            jax.jit(make_step(root, OPTIMIZER)),
            stream,
            last_step=3,
            cadence=cadence,
            hooks=hooks,
            stopwatch=Stopwatch(),
        )
    assert notes.saved == []


def test_the_key_stays_and_the_randomness_of_every_step_differs():
    notes = Notes()
    state = run(notes, cadence=(1, 0, 0))
    np.testing.assert_array_equal(jax.random.key_data(state.key), jax.random.key_data(first_state().key))
    assert len({values["noise"] for values in notes.records.values()}) == 10
    expected = [float(jax.random.normal(jax.random.fold_in(state.key, number))) for number in range(10)]
    assert [values["noise"] for _, values in sorted(notes.records.items())] == pytest.approx(expected, rel=1e-6)


def test_accumulated_parts_have_randomness_of_their_own():
    def noise(params, batch, key):
        values = jax.random.normal(key, batch["weights"]["a"].shape)
        return jnp.sum(values * params["kernel"]), {"squared": (jnp.sum(values) ** 2, jnp.ones(()))}

    params = {"kernel": jnp.ones(())}
    state = State(jnp.zeros((), jnp.int32), params, OPTIMIZER.init(params), jax.random.key(0))
    _, metrics = jax.jit(make_step(noise, OPTIMIZER, 4))(state, {"weights": {"a": jnp.ones(4)}})
    keys = [jax.random.fold_in(jax.random.fold_in(state.key, 0), part) for part in range(4)]
    values = [float(jax.random.normal(key, (1,))[0]) for key in keys]
    assert len(set(values)) == 4
    assert float(metrics["loss"][0]) == pytest.approx(sum(values), rel=1e-5)
    assert float(metrics["squared"][0]) == pytest.approx(sum(value**2 for value in values), rel=1e-5)
    assert float(metrics["squared"][1]) == 4


def test_the_old_state_is_donated_and_the_new_one_lies_where_it_lay():
    old = fresh()
    places = jax.tree.map(lambda leaf: leaf.sharding, old)
    with jax.set_mesh(MESH):
        new, _ = step()(old, next(batches(0, 1)))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((old.params, old.opt[1].mu, old.opt[1].nu)))
    assert jax.tree.map(lambda leaf: leaf.sharding, new) == places


def test_seeds_give_other_parameters_and_other_randomness():
    one, other = first_state(), create_state(init, OPTIMIZER, MESH, seed=1)
    assert not np.array_equal(one.params["dense"]["kernel"], other.params["dense"]["kernel"])
    assert not np.array_equal(jax.random.key_data(one.key), jax.random.key_data(other.key))
