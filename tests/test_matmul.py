"""bfloat16 on a CPU: the products and the attention that its instructions serve compute what plain arithmetic does."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.model import BertForPretraining
from bert_jax.tasks import pretraining_loss
from core_jax.attention import attend, choose
from core_jax.matmul import add_bias, matmul
from tests.tiny_bert import CONFIG, fresh_state, host_batch
from tests.tiny_training import mesh_of

BF16 = jnp.bfloat16
ROUNDING = 2.0**-8  # half a unit in the last place of bfloat16, relative to the largest term


def arrays(*shapes, dtype=BF16):
    random = np.random.default_rng(0)
    return [jnp.asarray(random.standard_normal(shape), dtype) for shape in shapes]


def assert_near(found, expected):
    """Apart from some roundings to bfloat16 of terms as large as the largest."""
    expected = np.asarray(expected, np.float32)
    np.testing.assert_allclose(
        np.asarray(found, np.float32), expected, rtol=0, atol=4 * ROUNDING * np.abs(expected).max()
    )


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_products_and_their_gradients(batch, transposed):
    x, kernel, gradient = arrays((*batch, 24), (40, 24) if transposed else (24, 40), (*batch, 40))

    def ours(x, kernel):
        return matmul(x, kernel, transposed=transposed)

    def plain(x, kernel):
        return jnp.matmul(x, kernel.T if transposed else kernel)

    found, found_gradients = jax.jit(lambda *primals: _with_gradients(ours, gradient, *primals))(x, kernel)
    wide = [value.astype(jnp.float32) for value in (x, kernel)]
    expected, expected_gradients = _with_gradients(plain, gradient.astype(jnp.float32), *wide)
    assert found.dtype == BF16
    assert_near(found, expected)
    for one, other in zip(found_gradients, expected_gradients, strict=True):
        assert one.dtype == BF16
        assert_near(one, other)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("width", [16, 40])  # which factor is the smaller one decides what is transposed
def test_gradients_in_float32(width, transposed):
    x, kernel, gradient = arrays((2, 3, 24), (width, 24) if transposed else (24, width), (2, 3, width), dtype="float32")
    _, [of_x, of_kernel] = jax.jit(lambda *p: _with_gradients(_transposing(transposed), gradient, *p))(x, kernel)
    flat_x, flat_gradient, right = (np.asarray(a, np.float64) for a in (x, gradient, kernel))
    flat_x, flat_gradient = flat_x.reshape(-1, 24), flat_gradient.reshape(-1, width)
    expected = flat_gradient.T @ flat_x if transposed else flat_x.T @ flat_gradient
    np.testing.assert_allclose(of_kernel, expected, rtol=1e-5, atol=1e-5)
    expected = flat_gradient @ (right if transposed else right.T)
    np.testing.assert_allclose(of_x.reshape(-1, 24), expected, rtol=1e-5, atol=1e-5)


def _transposing(transposed):
    return lambda x, kernel: matmul(x, kernel, transposed=transposed)


def test_the_gradient_of_a_bias_is_summed_up_in_float32():
    x, bias = arrays((40, 50, 24), (24,))
    gradient = jnp.full(x.shape, 1.0, BF16)  # 2000 of them: bfloat16 would stop at 256
    out, [of_x, of_bias] = jax.jit(lambda *primals: _with_gradients(add_bias, gradient, *primals))(x, bias)
    assert (out.dtype, of_x.dtype, of_bias.dtype) == (BF16, BF16, BF16)
    assert_near(out, np.asarray(x, np.float32) + np.asarray(bias, np.float32))
    np.testing.assert_array_equal(of_x, gradient)
    np.testing.assert_array_equal(of_bias, jnp.full(24, 2000, BF16))


def _with_gradients(function, gradient, *primals):
    out, pull_back = jax.vjp(function, *primals)
    return out, pull_back(gradient)


def test_only_bfloat16_on_a_single_cpu_device_is_treated():
    x, kernel = arrays((8, 24), (24, 40))

    def barriers(x, kernel, mesh):
        with jax.set_mesh(mesh):
            return "optimization_barrier" in jax.jit(lambda x, kernel: matmul(x, kernel)).lower(x, kernel).as_text()

    assert barriers(x, kernel, mesh_of("data:1"))
    assert not barriers(x, kernel, mesh_of("data:8"))
    assert not barriers(x.astype(jnp.float32), kernel.astype(jnp.float32), mesh_of("data:1"))


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_and_its_gradients(causal, rate):
    shape = (2, 16, 3, 8)
    *inputs, gradient = arrays(shape, shape, shape, shape)
    segments = jnp.asarray(np.repeat([[1, 2, 0], [3, 3, 3]], [7, 5, 4], axis=1), jnp.int32)
    options = {"query_segments": segments, "key_segments": segments, "causal": causal, "dropout_rate": rate}
    options["dropout_key"] = jax.random.key(1)

    def run(inputs, gradient, implementation):
        return _with_gradients(lambda *x: attend(*x, **options, implementation=implementation), gradient, *inputs)

    assert choose("auto", 16, 8, BF16, drops=rate > 0) == "rounded"
    found, found_gradients = run(inputs, gradient, "auto")
    wide = [value.astype(jnp.float32) for value in inputs]
    expected, expected_gradients = run(wide, gradient.astype(jnp.float32), "reference")
    assert_near(found, expected)
    for one, other in zip(found_gradients, expected_gradients, strict=True):
        assert_near(one, other)


def test_it_is_chosen_where_it_can_be():
    assert choose("auto", 16, 8, jnp.float32, drops=False) == "xla"
    assert choose("auto", 16, 8, BF16, drops=False, among_themselves=False) == "xla"
    with jax.set_mesh(mesh_of("data:8")):
        assert choose("auto", 16, 8, BF16, drops=False) == "xla"


def test_no_product_of_the_model_is_turned_to_float32():
    """On processors without the instructions XLA does it all the same; the program before it is what we answer for."""
    model = BertForPretraining(dataclasses.replace(CONFIG, dtype="bfloat16"))
    step = jax.jit(
        jax.grad(lambda params, batch: pretraining_loss(model, train=True)(params, batch, jax.random.key(0))[0])
    )
    text = step.lower(fresh_state().params, host_batch(0, 2)).as_text()
    products = re.findall(r"stablehlo\.dot_general.*: \((.*)\) -> tensor<(.*)>", text)
    assert len(products) > 3 * 8 * CONFIG.depth
    for factors, result in products:
        assert factors.count("bf16") == 2, factors
        assert result.endswith("f32"), result
