import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bert_jax.tasks import initial_params
from core_jax.config import OptimizerConfig
from core_jax.errors import UserError
from core_jax.optimizers import decays, make_optimizer, schedule
from core_jax.sharding import by_path, global_batch, parse_mesh, path_name, tree_shardings
from core_jax.train import State, abstract_state, compile_step, make_step
from tests.tiny_bert import model

DEVLIN = OptimizerConfig(learning_rate=0.1, warmup_steps=2, bias_correction=False)
STEPS = 6


def parameters():
    random = np.random.default_rng(0)
    numbers = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)  # noqa: E731
    return {
        "dense": {"kernel": numbers(3, 2), "bias": numbers(2)},
        "norm": {"scale": numbers(2), "bias": numbers(2)},
        "token": {"embedding": numbers(4, 3)},
    }


def gradients(params, count=STEPS):
    """Gradients of norms 3, 0.3, 3, ...: those of even steps are clipped."""
    random = np.random.default_rng(1)
    for number in range(count):
        raw = jax.tree.map(lambda leaf: random.normal(size=leaf.shape), params)
        norm = math.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(raw)))
        yield jax.tree.map(lambda leaf, s=[3, 0.3][number % 2] / norm: jnp.asarray(leaf * s, jnp.float32), raw)


def trajectory(transformation, params, count=STEPS):
    state, update = transformation.init(params), jax.jit(transformation.update)
    for gradient in gradients(params, count):
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        yield params


def by_hand(params, config, count=STEPS):
    """`AdamWeightDecayOptimizer` of google-research/bert, in float64; the rate is linear up and down again."""
    flat = {path_name(path): np.float64(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    m, v = (dict.fromkeys(flat, 0.0) for _ in range(2))
    for number, gradient in enumerate(gradients(params, count)):
        g = {path_name(path): np.float64(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)}
        norm = math.sqrt(sum((leaf**2).sum() for leaf in g.values()))
        up, down = number / 2, (STEPS - number) / (STEPS - 2)
        rate = config.learning_rate * min(up, down)
        for name in flat:
            clipped = g[name] / max(norm / config.clip_norm, 1) if config.clip_norm else g[name]
            m[name] = 0.9 * m[name] + 0.1 * clipped
            v[name] = 0.999 * v[name] + 0.001 * clipped**2
            update = m[name] / (np.sqrt(v[name]) + 1e-6)
            if name in ("dense/kernel", "token/embedding"):
                update = update + 0.01 * flat[name]
            flat[name] = flat[name] - rate * update
        yield dict(flat)


@pytest.mark.parametrize("clip_norm", [1.0, 0.0])
def test_devlins_adam_step_by_step(clip_norm):
    config = dataclasses.replace(DEVLIN, clip_norm=clip_norm)
    found = trajectory(make_optimizer(config, STEPS), parameters())
    for ours, theirs in zip(found, by_hand(parameters(), config), strict=True):
        for path, leaf in jax.tree_util.tree_leaves_with_path(ours):
            rounding = float(np.finfo(np.float32).eps)  # of parameters and steps of size 1 whose sum may be near 0
            np.testing.assert_allclose(leaf, theirs[path_name(path)], rtol=1e-6, atol=rounding)


def test_clipping_matters_here():
    clipped, free = (list(by_hand(parameters(), dataclasses.replace(DEVLIN, clip_norm=c)))[-1] for c in (1.0, 0.0))
    assert np.abs(clipped["dense/bias"] - free["dense/bias"]).max() > 1e-2


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_with_bias_correction_it_is_optax(name):
    config = OptimizerConfig(optimizer=name, learning_rate=0.1, warmup_steps=2, weight_decay=0.3, clip_norm=0.0)
    theirs = {"adamw": optax.adamw, "lamb": optax.lamb}[name](
        schedule(config, STEPS), b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.3, mask=decays
    )
    for pair in zip(
        trajectory(make_optimizer(config, STEPS), parameters()), trajectory(theirs, parameters()), strict=True
    ):
        jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-6), *pair)


def test_uncorrected_adam_starts_slower_than_corrected():
    """At the first step m / sqrt(v) is 0.1 / sqrt(0.001) of the sign of the gradient, corrected exactly the sign."""
    config = dataclasses.replace(DEVLIN, warmup_steps=0, schedule="constant", weight_decay=0.0, learning_rate=1.0)
    for corrected, size in ((False, 0.1 / math.sqrt(0.001)), (True, 1.0)):
        first = next(
            trajectory(make_optimizer(dataclasses.replace(config, bias_correction=corrected), STEPS), parameters())
        )
        moved = jax.tree.map(lambda a, b: np.abs(a - b), first, parameters())
        np.testing.assert_allclose(moved["dense"]["kernel"], size, rtol=1e-3)  # epsilon against small gradients


SCHEDULES = {  # 100 steps, of which 10 warm up to 2; {steps taken: the rate of the next step}
    "linear": {0: 0, 5: 1, 10: 2, 55: 1, 100: 0, 150: 0},
    "cosine": {0: 0, 5: 1, 10: 2, 32.5: 1 + math.sqrt(0.5), 55: 1, 100: 0, 150: 0},
    "constant": {0: 0, 5: 1, 10: 2, 55: 2, 100: 2, 150: 2},
    "inverse_sqrt": {0: 0, 5: 1, 10: 2, 40: 1, 90: 2 / 3, 160: 0.5},
    "wsd": {0: 0, 5: 1, 10: 2, 55: 2, 80: 2, 90: 1, 95: 0.5, 100: 0, 150: 0},
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name):
    rate = schedule(OptimizerConfig(schedule=name, learning_rate=2.0, warmup_steps=10), 100)
    for count, expected in SCHEDULES[name].items():
        assert float(np.asarray(rate(count))) == pytest.approx(expected, rel=1e-6, abs=1e-7), count


@pytest.mark.parametrize(("name", "middle"), [("linear", 1.25), ("cosine", 1.25), ("wsd", 2)])
def test_schedules_end_at_the_final_fraction(name, middle):
    config = OptimizerConfig(schedule=name, learning_rate=2.0, warmup_steps=10, final_fraction=0.25)
    rate = schedule(config, 100)
    assert [float(np.asarray(rate(count))) for count in (55, 100, 150)] == pytest.approx([middle, 0.5, 0.5], rel=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_without_warmup_the_first_step_has_the_full_rate(name):
    rate = schedule(OptimizerConfig(schedule=name, learning_rate=2.0, warmup_steps=0), 100)
    assert float(np.asarray(rate(0))) == 2.0
    late = {"linear": 0.2, "cosine": 1 + math.cos(0.9 * math.pi), "constant": 2, "inverse_sqrt": 2 / 91**0.5, "wsd": 1}
    assert float(np.asarray(rate(90))) == pytest.approx(late[name], rel=1e-5)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("warmup", "steps"), [(10, 5), (10, 10), (95, 100)])
def test_runs_shorter_than_their_warmup_or_decay_stay_below_the_top(name, warmup, steps):
    rate = schedule(OptimizerConfig(schedule=name, learning_rate=2.0, warmup_steps=warmup), steps)
    rates = [float(np.asarray(rate(count))) for count in range(steps + 20)]
    assert all(0 <= value <= 2.0 for value in rates)
    assert rates[: warmup + 1] == pytest.approx([2.0 * count / warmup for count in range(warmup + 1)], abs=2e-7)


def unequal_loss(params, batch, key):
    """The gradient of the weight is the mean of the rows: 8 rows, of which only the first is far from 0."""
    del key
    total, count = jnp.sum(batch["rows"] @ params["kernel"]), jnp.float32(len(batch["rows"]))
    return total / count, {"total": (total, count)}


ROWS = np.concatenate([[[80.0, 0.0]], np.tile([[0.0, 0.08]], (7, 1))]).astype(np.float32)


def update_on(devices, clip_norm):
    mesh = parse_mesh(f"data:{devices}", devices=jax.devices()[:devices])
    # Adam without memory and with a huge epsilon is plain descent, divided by 1e6.
    plain = OptimizerConfig(learning_rate=1.0, warmup_steps=0, schedule="constant", beta1=0.0, beta2=0.0, epsilon=1e6)
    config = dataclasses.replace(plain, bias_correction=False, weight_decay=0.0, clip_norm=clip_norm)
    transformation = make_optimizer(config, STEPS)
    init = lambda key: {"kernel": jnp.zeros(2)}  # noqa: E731
    shardings = tree_shardings(abstract_state(init, transformation), mesh)
    params = init(None)
    state = State(jnp.zeros((), jnp.int32), params, transformation.init(params), jax.random.key(0))
    with jax.set_mesh(mesh):
        step = compile_step(make_step(unequal_loss, transformation), shardings)
        state, metrics = step(jax.device_put(state, shardings), global_batch({"rows": ROWS}, mesh))
    return -1e6 * np.asarray(state.params["kernel"]), float(metrics["gradient_norm"][0])


def test_the_whole_gradient_is_clipped_however_many_devices():
    """Devlin's code clipped each replica's gradient before the all-reduce; ours is clipped once, after it."""
    mean = ROWS.mean(axis=0)
    norm = float(np.linalg.norm(mean))  # about 10
    per_replica = (ROWS / np.maximum(np.linalg.norm(ROWS, axis=1, keepdims=True), 1.0)).mean(axis=0)
    for devices in (1, 8):
        update, reported = update_on(devices, clip_norm=1.0)
        np.testing.assert_allclose(reported, norm, rtol=1e-6)
        np.testing.assert_allclose(update, mean / norm, rtol=1e-5)
        assert np.linalg.norm(update) == pytest.approx(1.0, rel=1e-5)
        assert np.linalg.norm(update - per_replica) > 0.5


def test_decay_shrinks_kernels_and_embeddings_of_a_bert():
    shapes = jax.eval_shape(initial_params(model(depth=1)), jax.random.key(0))
    mask = {path_name(path): on for path, on in jax.tree_util.tree_leaves_with_path(decays(shapes))}
    layer = "bert/encoder/block_0/"
    kernels = {
        *(f"{layer}attention/{name}/kernel" for name in ("query", "key", "value", "out")),
        *(f"{layer}mlp/{name}/kernel" for name in ("up", "down")),
        *(f"bert/embeddings/{name}/embedding" for name in ("token", "position", "type")),
        "bert/pooler/dense/kernel",
        "next_sentence_classifier/dense/kernel",
        "token_prediction/transform/kernel",
    }
    assert {name for name, on in mask.items() if on} == kernels
    rest = {name.rsplit("/")[-1] for name in mask.keys() - kernels}
    assert rest == {"bias", "scale"}


@pytest.mark.parametrize("corrected", [False, True])
def test_a_first_moment_in_bfloat16_takes_half_the_memory_and_nearly_the_same_steps(corrected):
    config = dataclasses.replace(DEVLIN, bias_correction=corrected)
    narrow = make_optimizer(dataclasses.replace(config, moment_dtype="bfloat16"), STEPS)
    sizes = {leaf.dtype.name: 0 for leaf in jax.tree.leaves(narrow.init(parameters()))}
    for leaf in jax.tree.leaves(narrow.init(parameters())):
        sizes[leaf.dtype.name] += leaf.size
    assert sizes["bfloat16"] == sizes["float32"]  # the first moment; the second
    found, exact = (list(trajectory(one, parameters()))[-1] for one in (narrow, make_optimizer(config, STEPS)))
    moved = jax.tree.map(lambda leaf, start: np.abs(leaf - start).max(), exact, parameters())
    # A step is rounded to 8 bits; the errors of STEPS of them add up at most.
    jax.tree.map(lambda a, b, step: np.testing.assert_allclose(a, b, atol=STEPS * step / 2**8), found, exact, moved)
    assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True))


@pytest.mark.parametrize("scan_layers", [False, True])
def test_layers_far_from_the_head_learn_slower(scan_layers):
    """Of two layers the last takes half a step, the first a quarter, the embeddings an eighth, the rest a whole one."""
    params = initial_params(model(depth=2, scan_layers=scan_layers))(jax.random.key(0))
    plain = OptimizerConfig(learning_rate=0.1, warmup_steps=0, schedule="constant", weight_decay=0.1)
    gradient = jax.tree.map(jnp.ones_like, params)

    def update(decay):
        transformation: Any = make_optimizer(dataclasses.replace(plain, layer_decay=decay), STEPS)
        return jax.jit(transformation.update)(gradient, transformation.init(params), params)[0]

    ratios = jax.tree.map(lambda slow, whole: slow / whole, update(0.5), update(1.0))
    for path, leaf in by_path(ratios).items():
        wanted = np.ones((), np.float32)
        if "/blocks/" in path:
            wanted = np.array([0.25, 0.5], np.float32).reshape(2, *(1,) * (leaf.ndim - 1))
        elif "/block_" in path:
            wanted = np.array(0.5 if "/block_1/" in path else 0.25)
        elif "embeddings/" in path:
            wanted = np.array(0.125)
        np.testing.assert_allclose(leaf, np.broadcast_to(wanted, leaf.shape), rtol=1e-6, err_msg=path)


def test_what_is_frozen_neither_moves_nor_counts_in_the_norm():
    config = dataclasses.replace(DEVLIN, freeze="norm|token/", weight_decay=0.1, warmup_steps=0)
    frozen: Any = list(trajectory(make_optimizer(config, STEPS), parameters()))[-1]
    jax.tree.map(np.testing.assert_array_equal, frozen["norm"], parameters()["norm"])
    jax.tree.map(np.testing.assert_array_equal, frozen["token"], parameters()["token"])
    alone = make_optimizer(dataclasses.replace(config, freeze=""), STEPS)
    params: Any = {"dense": parameters()["dense"]}
    state = alone.init(params)
    gradient: Any
    for gradient in gradients(parameters()):
        updates, state = alone.update({"dense": gradient["dense"]}, state, params)
        params = optax.apply_updates(params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), frozen["dense"], params["dense"])


@pytest.mark.parametrize(("pattern", "message"), [("nowhere", "no parameter"), (".", "all parameters")])
def test_freezing_nothing_or_all_is_a_mistake(pattern, message):
    transformation = make_optimizer(dataclasses.replace(DEVLIN, freeze=pattern), STEPS)
    with pytest.raises(UserError, match=f"--freeze={pattern} matches {message}.*dense/bias"):
        transformation.init(parameters())
