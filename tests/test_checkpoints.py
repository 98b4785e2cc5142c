import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.checkpoints import saved_steps, state_bytes
from core_jax.errors import UserError
from core_jax.sharding import tree_shardings
from tests.checkpoint_folder import (
    Folder,
    abstract_on,
    assert_same_bits,
    fresh,
    on_host,
    train,
    two_checkpoints,
)
from tests.tiny_training import mesh_of


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return two_checkpoints(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def copied(saved, tmp_path):
    """The same, to be damaged."""
    return saved[0].copy_to(tmp_path), saved[1]


@pytest.mark.parametrize("mesh", ["data:8", "data:2,fsdp:4", "data:1"])
def test_restores_to_the_bit_on_any_mesh(saved, mesh):
    folder, states = saved
    state = folder.restore(mesh)
    assert_same_bits(state, states[-1])
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == tree_shardings(state, mesh_of(mesh))
    assert jnp.issubdtype(state.key.dtype, jax.dtypes.prng_key)
    assert folder.reports == []


def test_goes_on_from_another_mesh_as_if_nothing_had_happened(saved):
    folder, _ = saved
    straight, resumed = train(folder.restore(), 2), train(folder.restore(), 2)
    assert_same_bits(resumed, on_host(straight))
    other = train(folder.restore("data:2,fsdp:4"), 2, "data:2,fsdp:4")
    np.testing.assert_allclose(other.params["mlp"]["up"]["kernel"], straight.params["mlp"]["up"]["kernel"], rtol=1e-5)


def test_an_empty_folder_has_no_checkpoint(folder):
    assert folder.restore() is None
    assert folder.reports == []


def test_training_on_does_not_change_what_is_being_saved(folder):
    folder.keep, expected = 100, {}
    state, checkpoints = train(fresh(), 1), folder.open()
    for _ in range(8):
        expected[int(state.step)] = on_host(state)
        checkpoints.save(int(state.step), state)
        state = train(state, 3)  # donates the buffers that are being written
    checkpoints.close()
    for step in sorted(expected, reverse=True):
        assert_same_bits(folder.restore(), expected[step])
        shutil.rmtree(folder.path / str(step))


def test_the_newest_are_kept(folder):
    folder.keep = 2
    state = fresh()
    for _ in range(4):
        state = train(state, 1)
        folder.save(state)
    assert saved_steps(folder.path) == [3, 4]


def test_what_a_killed_save_left_is_ignored_and_cleared_away(copied):
    folder, states = copied
    leftover = folder.path / "3.orbax-checkpoint-tmp-17"
    shutil.copytree(folder.path / "2", leftover)
    assert saved_steps(folder.path) == [1, 2]
    assert_same_bits(folder.restore(), states[-1])
    assert not leftover.exists()
    assert folder.reports == []


def test_another_vocabulary_is_refused(saved):
    folder, _ = saved
    with pytest.raises(UserError, match="belongs to another vocabulary: put back the vocabulary"):
        folder.restore(vocabulary="another")
    assert folder.set_aside() == []


def test_other_shapes_are_refused_and_listed(saved):
    folder, _ = saved
    abstract = abstract_on("data:8")
    wider = jax.ShapeDtypeStruct((64, 48), jnp.float32, sharding=abstract.params["token"]["embedding"].sharding)
    params = {"token": {"embedding": wider}, "head": abstract.params["mlp"]}
    checkpoints = folder.open()
    try:
        with pytest.raises(UserError) as caught:
            checkpoints.restore_newest(dataclasses.replace(abstract, params=params))
    finally:
        checkpoints.close()
    for line in (
        "token/embedding: (64, 32) in the checkpoint, (64, 48) in the model",
        "head/up/kernel: missing in the checkpoint, (32, 32) in the model",
        "mlp/up/kernel: (32, 32) in the checkpoint, not in the model",
    ):
        assert line in str(caught.value)
    assert folder.set_aside() == []


def test_state_bytes_are_those_of_all_arrays():
    table, kernel, bias = 64 * 32, 32 * 32, 32
    counts, key = 3 * 4, 2 * 4  # the step and two counters of the optimizer; the key
    assert state_bytes(abstract_on("data:8")) == 3 * 4 * (table + kernel + bias) + counts + key
