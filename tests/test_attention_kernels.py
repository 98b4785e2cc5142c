"""The kernels of attention, interpreted on the CPU: against the reference, on meshes, with dropout; which is chosen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from core_jax.attention import Implementation, attend, attend_joint, choose
from core_jax.sharding import MESH_AXES
from tests.tiny_training import mesh_of

SHAPES = {  # rows, positions, heads, width of a head: full lanes and not, groups of heads that fill 128 lanes and not
    "ViT": (2, 197, 3, 64),
    "narrow heads": (1, 128, 8, 32),
    "one head": (2, 130, 1, 128),
    "odd": (1, 300, 4, 80),
    "tiny": (2, 17, 2, 8),
}
over_shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
over_kernels = pytest.mark.parametrize("kernel", ["fused", "splash"])


def normal(seed, shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def segments_of(rows, length):
    """Sorted, as in packed rows, with padding at the end."""
    numbers = np.sort(np.random.default_rng(0).integers(0, 4, (rows, length)), axis=1)
    return jnp.asarray((4 - numbers) % 4, jnp.int32)


def means_and_gradients(shape, dtype, implementation: Implementation, causal, rounded=False):
    inputs = [normal(seed, shape, jnp.bfloat16 if rounded else dtype).astype(dtype) for seed in range(3)]
    segments = segments_of(*shape[:2])
    means, pull = jax.vjp(
        jax.jit(
            lambda *x: attend(
                *x, query_segments=segments, key_segments=segments, causal=causal, implementation=implementation
            )
        ),
        *inputs,
    )
    return means, *pull(normal(3, shape, jnp.bfloat16 if rounded else dtype).astype(dtype))


@over_shapes
@over_kernels
@pytest.mark.parametrize("causal", [False, True])
def test_float32_agrees_with_the_reference_forward_and_backward(shape, kernel, causal):
    ours, theirs = (means_and_gradients(shape, jnp.float32, name, causal) for name in (kernel, "reference"))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@over_kernels
def test_bfloat16_agrees_with_the_reference_forward_and_backward(kernel):
    """As near to the truth as the reference in bfloat16 is, which rounds just as often."""
    shape = SHAPES["ViT"]
    truth = means_and_gradients(shape, jnp.float32, "reference", False, rounded=True)
    ours, theirs = (means_and_gradients(shape, jnp.bfloat16, name, False) for name in (kernel, "reference"))
    for one, other, true in zip(ours, theirs, truth, strict=True):
        one, other = (np.asarray(x, np.float32) for x in (one, other))
        assert np.mean(np.abs(one - true)) <= 2e-3
        assert np.linalg.norm(one - true) <= 1.1 * np.linalg.norm(other - true)


@over_kernels
@pytest.mark.parametrize("mesh", ["data:8", "data:2,fsdp:4", "data:2,tensor:2,fsdp:2"])
def test_every_mesh_computes_the_same(kernel, mesh):
    inputs = [normal(seed, (8, 16, 4, 8)) for seed in range(3)]
    segments = segments_of(8, 16)

    def total(*inputs):
        both = {"query_segments": segments, "key_segments": segments}
        return jnp.sum(attend(*inputs, **both, implementation=kernel) ** 2)

    alone = jax.value_and_grad(total, argnums=(0, 1, 2))(*inputs)
    with jax.set_mesh(mesh_of(mesh)):
        spread = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(*inputs)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), spread, alone)


def with_dropout(joint, rate=0.25, key=None):
    return attend_joint(joint, None, dropout_rate=rate, dropout_key=jax.random.key(1) if key is None else key)


@over_shapes
def test_dropout_of_the_kernel_is_that_of_the_reference_forward_and_backward(shape):
    width = shape[-1]
    joint, direction = normal(0, (*shape[:3], 3 * width)), normal(1, shape)

    def by_reference(joint):
        query, key, value = jnp.split(joint, 3, axis=-1)
        options = {"dropout_rate": 0.25, "dropout_key": jax.random.key(1), "implementation": "reference"}
        return attend(query, key, value, **options)

    for function in (lambda f: f(joint), lambda f: jax.vjp(f, joint)[1](direction)[0]):
        np.testing.assert_allclose(function(with_dropout), function(by_reference), rtol=1e-5, atol=1e-5)


def test_dropout_is_the_same_on_every_mesh():
    joint = normal(0, (8, 16, 4, 24))
    alone = with_dropout(joint)
    assert not np.allclose(alone, with_dropout(joint, key=jax.random.key(2)))
    with jax.set_mesh(mesh_of("data:2,tensor:2,fsdp:2")):
        np.testing.assert_allclose(jax.jit(with_dropout)(joint), alone, rtol=1e-5, atol=1e-6)


def test_a_row_that_no_mesh_divides_is_computed_all_the_same():
    joint = normal(0, (1, 16, 4, 24))
    with jax.set_mesh(mesh_of("data:8")):
        found = jax.jit(lambda x: attend_joint(x, None))(joint)
    np.testing.assert_allclose(found, attend_joint(joint, None), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("platform", "dtype", "length", "drops", "among_themselves", "expected"),
    [
        ("tpu", jnp.bfloat16, 512, False, True, "fused"),
        ("tpu", jnp.bfloat16, 512, True, True, "fused"),
        ("tpu", jnp.bfloat16, 2048, False, True, "splash"),
        ("tpu", jnp.bfloat16, 512, False, False, "splash"),
        ("tpu", jnp.bfloat16, 2048, True, True, "reference"),
        ("gpu", jnp.bfloat16, 512, False, True, "cudnn"),
        ("gpu", jnp.float32, 512, False, True, "xla"),
        ("gpu", jnp.bfloat16, 512, True, True, "reference"),
        ("cpu", jnp.float32, 512, False, True, "xla"),
        ("cpu", jnp.float32, 512, True, True, "reference"),
    ],
)
def test_auto_is_the_fastest_that_can(platform, dtype, length, drops, among_themselves, expected):
    device = AbstractDevice("a device", None, platform)
    mesh = AbstractMesh((1, 1, 1), MESH_AXES, (AxisType.Auto,) * 3, abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        assert choose("auto", length, 64, dtype, drops=drops, among_themselves=among_themselves) == expected


def test_what_a_kernel_cannot_do_is_refused():
    with pytest.raises(ValueError, match="up to 1024 positions among themselves, not 1025"):
        choose("fused", 1025, 64, jnp.float32, drops=False)
    with pytest.raises(ValueError, match="among themselves"):
        attend(*(normal(0, (1, n, 2, 8)) for n in (4, 6, 6)), implementation="fused")
    for name in ("xla", "splash", "cudnn"):
        with pytest.raises(ValueError, match="has no dropout"):
            choose(name, 64, 64, jnp.float32, drops=True)
