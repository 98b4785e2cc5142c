"""The stack: scanning and rematerialisation change nothing, norms sit where they should, and nobody sees too much."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from core_jax.config import TransformerConfig
from core_jax.sharding import by_path
from core_jax.transformer import Stack, stack_layers, unstack_layers
from tests.tiny_bert import host_batch, model

CONFIG = TransformerConfig(
    width=12,
    depth=2,
    heads=3,
    mlp_width=20,
    norm="post",
    norm_epsilon=1e-6,
    gelu="erf",
    dropout=0.0,
    attention_dropout=0.0,
    attention="reference",
    dtype="float32",
)
SEGMENTS = jnp.array([[1, 1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1, 0]])


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


HIDDEN = normal(1, 2, 7, CONFIG.width)
DIRECTION = normal(2, *HIDDEN.shape)


def changed(**changes):
    return dataclasses.replace(CONFIG, **changes)


def random_params(config):
    """Parameters of an unrolled stack, none of them 0 or 1."""
    shapes = jax.eval_shape(lambda key: Stack(changed(norm=config.norm)).init(key, HIDDEN)["params"], jax.random.key(0))
    leaves, tree = jax.tree.flatten(shapes)
    return jax.tree.unflatten(tree, [0.3 * normal(3 + i, *leaf.shape) + 0.2 for i, leaf in enumerate(leaves)])


def run(config, params, key=None):
    """Hidden states, and gradients of their product with DIRECTION, from and with respect to unrolled parameters."""

    def product(params, x):
        params = stack_layers(params) if config.scan_layers else params
        rngs = {} if key is None else {"dropout": key}
        out: Any = Stack(config).apply({"params": params}, x, SEGMENTS, train=key is not None, rngs=rngs)
        return jnp.sum(out * DIRECTION), out

    gradients, out = jax.jit(jax.grad(product, argnums=(0, 1), has_aux=True))(params, HIDDEN)
    return out, gradients


def assert_same(found, expected, tolerance=1e-6):
    """Elementwise; the floor is a part of the largest element of each array, since sums cancel."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    close = functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance * largest)
    jax.tree.map(close, found, expected)


@functools.cache
def plain(norm):
    return run(changed(norm=norm), random_params(changed(norm=norm)))


def test_stacking_layers_can_be_undone():
    params = random_params(changed(norm="pre"))
    stacked = stack_layers(params)
    assert stacked.keys() == {"blocks", "final_norm"}
    shapes = jax.eval_shape(
        lambda key: Stack(changed(norm="pre", scan_layers=True)).init(key, HIDDEN)["params"], jax.random.key(0)
    )
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    jax.tree.map(np.testing.assert_array_equal, unstack_layers(stacked), params)
    jax.tree.map(np.testing.assert_array_equal, stack_layers(unstack_layers(stacked)), stacked)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_scanned_layers_are_unrolled_layers(norm):
    found = run(changed(norm=norm, scan_layers=True), random_params(changed(norm=norm)))
    assert_same(found, plain(norm))


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("remat", ["dots", "full"])
def test_rematerialisation_changes_nothing(remat, scan_layers):
    assert_same(run(changed(remat=remat, scan_layers=scan_layers), random_params(CONFIG)), plain("post"))


@pytest.mark.parametrize("scan_layers", [False, True])
def test_rematerialisation_draws_the_same_dropout_again(scan_layers):
    config = changed(dropout=0.2, attention_dropout=0.2, scan_layers=scan_layers)
    params, key = random_params(CONFIG), jax.random.key(5)
    again = dataclasses.replace(config, remat="full")
    assert_same(run(again, params, key), run(config, params, key))


@pytest.mark.parametrize("scan_layers", [False, True])
def test_rematerialisation_keeps_less_for_the_backward_pass(scan_layers):
    def kept(remat):
        config = changed(remat=remat, scan_layers=scan_layers)
        params = stack_layers(random_params(CONFIG)) if scan_layers else random_params(CONFIG)
        backward = jax.eval_shape(lambda x: jax.vjp(lambda x: Stack(config).apply({"params": params}, x), x)[1], HIDDEN)
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    assert kept("full") < kept("dots") < kept("none")


def numpy_norm(x, norm):
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + CONFIG.norm_epsilon) * norm["scale"] + norm["bias"]


def numpy_attention(x, params):
    query, key, value = (
        np.einsum("btd,dhk->bthk", x, params[name]["kernel"]) + params[name]["bias"]
        for name in ("query", "key", "value")
    )
    logits = np.einsum("bthk,bshk->bhts", query, key) / np.sqrt(CONFIG.width / CONFIG.heads)
    weights = np.exp(logits) * (np.asarray(SEGMENTS)[:, None, :, None] == np.asarray(SEGMENTS)[:, None, None, :])
    means = np.einsum("bhts,bshk->bthk", weights / weights.sum(-1, keepdims=True), value)
    return np.einsum("bthk,hkd->btd", means, params["out"]["kernel"]) + params["out"]["bias"]


def numpy_mlp(x, params):
    hidden = x @ params["up"]["kernel"] + params["up"]["bias"]
    hidden = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
    return hidden @ params["down"]["kernel"] + params["down"]["bias"]


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_one_block_by_hand(norm):
    config = changed(norm=norm, depth=1)
    params = random_params(config)
    params = {name: value for name, value in params.items() if name in ("block_0", "final_norm")}
    found = jax.jit(Stack(config).apply)({"params": params}, HIDDEN, SEGMENTS)
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    block, x = exact["block_0"], np.asarray(HIDDEN, np.float64)
    if norm == "pre":
        x = x + numpy_attention(numpy_norm(x, block["attention_norm"]), block["attention"])
        x = x + numpy_mlp(numpy_norm(x, block["mlp_norm"]), block["mlp"])
        x = numpy_norm(x, exact["final_norm"])
    else:
        x = numpy_norm(x + numpy_attention(x, block["attention"]), block["attention_norm"])
        x = numpy_norm(x + numpy_mlp(x, block["mlp"]), block["mlp_norm"])
        assert "final_norm" not in params
    np.testing.assert_allclose(found, x, rtol=1e-5, atol=1e-5)


def test_dropout_is_on_only_in_training_and_follows_its_key():
    stack, params = Stack(changed(dropout=0.3, attention_dropout=0.3)), {"params": random_params(CONFIG)}
    apply = jax.jit(stack.apply, static_argnames="train")
    off = apply(params, HIDDEN, SEGMENTS, train=False)
    np.testing.assert_allclose(off, plain("post")[0], rtol=1e-5, atol=1e-5)
    first, again, other = (
        apply(params, HIDDEN, SEGMENTS, train=True, rngs={"dropout": jax.random.key(seed)}) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    assert np.abs(first - off).max() > 0.1


@pytest.mark.parametrize("scan_layers", [False, True])
def test_every_layer_drops_other_units(scan_layers):
    # Each of two layers adds a constant to the kept units and nothing else happens: 0, 1 or 2 layers kept a unit. With
    # one mask for both there would be none that exactly one of them kept.
    config = changed(norm="pre", depth=2, dropout=0.5)
    params = jax.tree.map(jnp.zeros_like, random_params(config))
    params = {name: params[name] for name in ("block_0", "block_1", "final_norm")}
    params["final_norm"]["scale"] = jnp.ones(config.width)
    for i in range(2):
        params[f"block_{i}"]["mlp"]["down"]["bias"] = jnp.ones(config.width)
    stack = Stack(dataclasses.replace(config, scan_layers=scan_layers))
    params = {"params": stack_layers(params) if scan_layers else params}
    apply = jax.jit(functools.partial(stack.apply, train=True))
    out = apply(params, jnp.zeros_like(HIDDEN), rngs={"dropout": jax.random.key(0)})
    levels = [len(np.unique(np.round(row, 4))) for row in np.asarray(out).reshape(-1, config.width)]
    assert np.median(levels) == 3


def equations(jaxpr):
    """All equations of a program, those of the programs inside it too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda value: hasattr(value, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@pytest.mark.parametrize("attention", ["reference", "xla"])
def test_bfloat16_computes_in_bfloat16_and_keeps_parameters_in_float32(attention):
    stack = Stack(changed(dtype="bfloat16", attention=attention))
    params = random_params(CONFIG)
    initial = jax.eval_shape(stack.init, jax.random.key(0), HIDDEN)
    assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {jnp.dtype(jnp.float32)}
    out = jax.jit(stack.apply)({"params": params}, HIDDEN, SEGMENTS)
    assert out.dtype == jnp.bfloat16
    assert np.abs(out.astype(jnp.float32) - plain("post")[0]).max() < 0.05 * np.abs(plain("post")[0]).max()
    program = jax.make_jaxpr(stack.apply)({"params": params}, HIDDEN, SEGMENTS)
    types: dict = {}
    for equation in equations(program.jaxpr):
        types.setdefault(equation.primitive.name, []).append({str(value.aval.dtype) for value in equation.invars})
    projections = 6 * CONFIG.depth
    assert types["dot_general"].count({"bfloat16"}) >= projections + CONFIG.depth
    assert {"float32"} not in types["dot_general"]
    assert types["exp"] == [{"float32"}] * CONFIG.depth  # softmax
    assert types["rsqrt"] == [{"float32"}] * 2 * CONFIG.depth  # LayerNorm


@functools.cache
def tiny_bert():
    """A compiled (params, inputs) -> logits of every position, parameters, and inputs."""
    bert, batch = model(attention="auto"), host_batch(0, rows=4)
    positions = np.broadcast_to(np.arange(8, dtype=np.int32), (4, 8))
    inputs = tuple(map(jnp.asarray, (batch["tokens"], batch["segments"], batch["types"], positions)))
    params = jax.jit(bert.init)(jax.random.key(0), *inputs)
    return jax.jit(bert.apply), params, inputs


def test_nobody_sees_the_content_of_padding():
    apply, params, (tokens, segments, types, positions) = tiny_bert()
    padding = np.asarray(segments) == 0
    assert padding.any()
    expected = apply(params, tokens, segments, types, positions)
    found = apply(
        params, jnp.where(padding, 31 - tokens, tokens), segments, jnp.where(padding, 1 - types, types), positions
    )
    np.testing.assert_array_equal(np.asarray(found[0])[~padding], np.asarray(expected[0])[~padding])
    np.testing.assert_array_equal(found[1], expected[1])
    assert np.any(np.asarray(found[0])[padding] != np.asarray(expected[0])[padding])  # it did change


def test_rows_of_a_batch_are_independent():
    apply, params, inputs = tiny_bert()
    expected = apply(params, *inputs)
    tokens, *rest = inputs
    found = apply(params, tokens.at[1:].set(31 - tokens[1:]), *rest)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert np.all(np.any(ours[1:] != theirs[1:], axis=-1))


def test_the_model_runs_as_an_nnx_module():
    apply, params, inputs = tiny_bert()

    @nnx.jit
    def initialised():
        module = nnx.bridge.ToNNX(model(attention="auto"), rngs=nnx.Rngs(0))
        return nnx.bridge.lazy_init(module, *inputs)

    module = initialised()
    state = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, params["params"])
    nnx.update(module, params["params"])
    for ours, theirs in zip(nnx.jit(lambda module: module(*inputs))(module), apply(params, *inputs), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_parameters_start_as_in_the_original():
    _, params, _ = tiny_bert()
    for path, leaf in by_path(params["params"]).items():
        name = path.rsplit("/", 1)[1]
        if name in ("kernel", "embedding"):
            assert np.abs(leaf).max() <= 2 * 0.1 * 1.14, path  # cut off at two standard deviations
            assert leaf.std() > 0.05, path
        else:
            np.testing.assert_array_equal(leaf, np.ones_like(leaf) if name == "scale" else np.zeros_like(leaf))
