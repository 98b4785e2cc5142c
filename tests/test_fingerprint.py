import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.checkpoints import fingerprint
from core_jax.sharding import tree_shardings
from tests.checkpoint_folder import fresh
from tests.tiny_training import mesh_of


def test_fingerprint_does_not_depend_on_sharding():
    params = fresh().params
    meshes = [mesh_of(mesh) for mesh in ("data:1", "data:8", "data:2,fsdp:4", "tensor:4,fsdp:2")]
    placed = [jax.device_put(params, tree_shardings(params, mesh)) for mesh in meshes]
    assert len({int(jax.jit(fingerprint)(tree)) for tree in placed}) == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint32"])
def test_fingerprint_changes_with_any_bit(dtype):
    values = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3)) * 100, dtype)
    width = values.dtype.itemsize * 8
    bits = np.asarray(jax.lax.bitcast_convert_type(values, f"uint{width}"))
    flips = bits[None] ^ np.eye(bits.size * width, dtype=bits.dtype).reshape(-1, *bits.shape, width).dot(
        2 ** np.arange(width, dtype=bits.dtype)
    ).astype(bits.dtype)
    swaps = []
    for first in range(bits.size):
        for second in range(first):
            flat = bits.copy().ravel()
            flat[[first, second]] = flat[[second, first]]
            swaps.append(flat.reshape(bits.shape))
    every = jax.lax.bitcast_convert_type(jnp.asarray(np.concatenate([bits[None], flips, swaps])), values.dtype)
    prints = np.asarray(jax.jit(jax.vmap(lambda x: fingerprint([x])))(every))
    assert len(set(prints.tolist())) == len(prints) == 1 + bits.size * width + 15


def test_fingerprint_tells_equal_arrays_in_other_places_apart():
    a, b = jnp.zeros(3), jnp.ones(3)
    assert int(jax.jit(fingerprint)([a, b])) != int(jax.jit(fingerprint)([b, a]))
