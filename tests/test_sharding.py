import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from bert_jax.tasks import initial_params
from core_jax import train
from core_jax.config import OptimizerConfig
from core_jax.errors import UserError
from core_jax.optimizers import make_optimizer
from core_jax.sharding import by_path, check_mesh, global_batch, parse_mesh, tree_shardings
from core_jax.train import State, abstract_state, create_state
from tests.tiny_bert import model

OPTIMIZER = make_optimizer(OptimizerConfig(warmup_steps=1), 10)
SHARDED = ["data:8", "data:2,fsdp:4", "data:2,tensor:2,fsdp:2"]


def shapes_of(**changes):
    return abstract_state(initial_params(model(**changes)), OPTIMIZER)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("data:8", (8, 1, 1)),
        ("data:-1", (8, 1, 1)),
        ("fsdp:8", (1, 8, 1)),
        ("data:2,fsdp:4", (2, 4, 1)),
        ("tensor:2,data:2,fsdp:2", (2, 2, 2)),
        ("data:2,fsdp:-1", (2, 4, 1)),
        ("data:-1,tensor:8", (1, 1, 8)),
        (" data:4 , tensor:2 ", (4, 1, 2)),
    ],
)
def test_meshes_are_read(text, shape):
    mesh = parse_mesh(text)
    assert dict(mesh.shape) == dict(zip(("data", "fsdp", "tensor"), shape, strict=True))
    assert {device.id for device in mesh.devices.flat} == {device.id for device in jax.devices()}


@pytest.mark.parametrize(("text", "used"), [("data:1", 1), ("data:2,fsdp:2", 4), ("tensor:3", 3)])
def test_a_smaller_mesh_takes_the_first_devices(text, used):
    assert list(parse_mesh(text).devices.flat) == jax.devices()[:used]


def test_every_host_must_take_part(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="--mesh=data:4 asks for 4 devices, but there are 8"):
        parse_mesh("data:4")


def offered(message):
    return re.findall(r"--mesh=([\w:,-]*\w)", message.split("these work: ")[1])


@pytest.mark.parametrize("text", ["data:16", "data:3,fsdp:-1", "data:4,fsdp:4", "tensor:16,data:-1"])
def test_meshes_of_more_devices_are_refused(text):
    with pytest.raises(UserError, match=rf"--mesh={text}.* 8") as caught:
        parse_mesh(text)
    assert len(offered(str(caught.value))) >= 3
    for works in offered(str(caught.value)):
        parse_mesh(works)


@pytest.mark.parametrize(
    "text",
    [
        *("", "data", "data:", "data:0", "data:-2", "data:x", "data:1.5", "data:08", "data=8", "Data:8", "model:2"),
        *("data:2,data:4", "data:8,", "data:2 fsdp:4"),
    ],
)
def test_texts_that_are_no_mesh_are_refused(text):
    with pytest.raises(
        UserError, match=rf"--mesh={text}: cannot read .*AXIS:SIZE.* data, fsdp, tensor .*--mesh=data:-1"
    ):
        parse_mesh(text)


def test_only_one_axis_takes_the_rest():
    with pytest.raises(UserError, match="only one axis may be -1"):
        parse_mesh("data:-1,fsdp:-1")


@pytest.mark.parametrize(
    ("mesh", "changes", "batch", "parts", "message"),
    [
        ("tensor:8", {}, 32, 1, r"attention/\w+/bias \(4, 4\): 4 does not divide by tensor:8"),
        ("data:2,tensor:4", {"vocab_size": 30}, 32, 1, r"token/embedding \(30, 16\): 30 does not divide by tensor:4"),
        ("fsdp:8", {"width": 12}, 32, 1, r"12 does not divide by fsdp:8"),
        ("tensor:8", {"scan_layers": True}, 32, 1, r"attention/\w+/bias \(2, 4, 4\): 4 does not divide by tensor:8"),
        ("data:8", {}, 12, 1, r"--global_batch_size=12 does not divide into data:8 x fsdp:1 = 8 parts"),
        ("data:2,fsdp:4", {}, 4, 1, r"--global_batch_size=4 does not divide into data:2 x fsdp:4 = 8 parts"),
        ("data:8", {}, 32, 8, r"=32 does not divide into data:8 x fsdp:1 x 8 accumulation steps = 64 parts"),
    ],
)
def test_a_mesh_that_does_not_divide_names_the_number_and_offers_what_works(mesh, changes, batch, parts, message):
    shapes = shapes_of(**changes)
    with pytest.raises(UserError, match=message) as caught:
        check_mesh(parse_mesh(mesh), shapes, batch, parts)
    assert offered(str(caught.value))
    for works in offered(str(caught.value)):
        check_mesh(parse_mesh(works), shapes, batch, parts)


@pytest.mark.parametrize("mesh", ["data:8", "tensor:8"])
def test_where_no_mesh_works_the_batch_must_change(mesh):
    with pytest.raises(UserError, match=r"--mesh=data:8 and a --global_batch_size that is a multiple of 24$"):
        check_mesh(parse_mesh(mesh), shapes_of(), 21, 3)
    check_mesh(parse_mesh("data:8"), shapes_of(), 24, 3)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_moments_lie_where_their_parameters_lie(scan_layers):
    shardings = tree_shardings(shapes_of(scan_layers=scan_layers), parse_mesh("data:2,tensor:2,fsdp:2"))
    params, adam = shardings.params, shardings.opt[1]
    assert by_path(adam.mu) == by_path(adam.nu) == by_path(params)
    encoder = "bert/encoder/blocks" if scan_layers else "bert/encoder/block_1"
    stacked = (None,) if scan_layers else ()
    specs = {name: sharding.spec for name, sharding in by_path(params).items()}
    assert specs[f"{encoder}/attention/query/kernel"] == P(*stacked, "fsdp", "tensor", None)
    assert specs[f"{encoder}/attention/query/bias"] == P(*stacked, "tensor", None)
    assert specs[f"{encoder}/attention/out/kernel"] == P(*stacked, "tensor", None, "fsdp")
    assert specs[f"{encoder}/attention_norm/scale"] == P()
    assert specs["bert/embeddings/token/embedding"] == P("tensor", "fsdp")


def bytes_by_hand(fsdp, tensor):
    """A device's share of the tiny BERT: width 16, 2 layers, 4 heads of 4, MLP 32, 32 pieces, 8 positions, 2 types."""
    layer_over_both = 4 * 16 * 16 + 2 * 16 * 32  # query, key, value, out; up, down
    over_both = 32 * 16 + 2 * layer_over_both  # tokens, layers
    over_fsdp = 8 * 16 + 2 * 16  # positions, types
    over_tensor = 2 * (3 * 16 + 32) + 32  # biases of query, key, value and up; of the pieces
    everywhere = 32 + 2 * (16 + 16 + 4 * 16) + 16 + 16 + 32 + 2  # LayerNorms and the other biases
    everywhere += 16 * 16 + 16 * 16 + 16 * 2  # pooler, transform, classifier
    parameters = over_both // (fsdp * tensor) + over_fsdp // fsdp + over_tensor // tensor + everywhere
    return 4 * 3 * parameters + 3 * 4 + 2 * 4  # two moments each; the step and two counters; the key


def bytes_on_devices(state):
    held = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(dataclasses.replace(state, key=jax.random.key_data(state.key))):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return set(held.values())


@pytest.mark.parametrize(("mesh", "scan_layers"), [*((mesh, False) for mesh in SHARDED), (SHARDED[-1], True)])
def test_every_device_holds_only_its_part(mesh, scan_layers):
    mesh = parse_mesh(mesh)
    state = create_state(initial_params(model(scan_layers=scan_layers)), OPTIMIZER, mesh, seed=0)
    assert bytes_on_devices(state) == {bytes_by_hand(mesh.shape["fsdp"], mesh.shape["tensor"])}
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == tree_shardings(state, mesh)


def test_parts_shrink_with_the_axes():
    whole, four, two_by_two = (bytes_by_hand(*axes) for axes in ((1, 1), (4, 1), (2, 2)))
    assert four < 0.4 * whole  # the heads, which every device holds, are a tenth of so small a model
    assert two_by_two < 0.4 * whole


def compiled_creation(mesh, shardings_of) -> Any:
    """Compiles what `create_state` runs, for one table of 1024 x 256."""
    init = lambda key: {"token": {"embedding": jax.random.truncated_normal(key, -2, 2, (1024, 256))}}  # noqa: E731
    create = train._creator(init, OPTIMIZER)
    shardings = shardings_of(abstract_state(init, OPTIMIZER), mesh)
    with jax.set_mesh(mesh):
        return jax.jit(create, out_shardings=shardings).lower(jax.random.key(0)).compile()


def test_no_device_ever_holds_a_whole_table():
    mesh, table = parse_mesh("data:2,tensor:2,fsdp:2"), 1024 * 256 * 4
    compiled = compiled_creation(mesh, tree_shardings)
    assert re.search(r"f32\[512,128\]", compiled.as_text())
    assert not re.search(r"\[(1024,256|256,1024|262144)\]", compiled.as_text())
    memory = compiled.memory_analysis()
    assert 3 * table / 4 <= memory.output_size_in_bytes < 3 * table / 4 + 1000
    assert memory.temp_size_in_bytes < table
    embedding = compiled.output_shardings.params["token"]["embedding"]
    assert embedding.shard_shape((1024, 256)) == (512, 128)
    replicated = lambda tree, mesh: jax.tree.map(lambda _: jax.NamedSharding(mesh, P()), tree)  # noqa: E731
    assert re.search(r"f32\[1024,256\]", compiled_creation(mesh, replicated).as_text())  # the search does find


@pytest.mark.parametrize("mesh", SHARDED)
def test_global_batches_keep_their_rows(mesh):
    mesh = parse_mesh(mesh)
    local = {"a": np.arange(48, dtype=np.int32).reshape(16, 3), "weights": {"b": np.arange(16, dtype=np.float32)}}
    batch = global_batch(local, mesh)
    jax.tree.map(np.testing.assert_array_equal, batch, local)
    rows = 16 // (mesh.shape["data"] * mesh.shape["fsdp"])
    assert {shard.data.shape for shard in batch["a"].addressable_shards} == {(rows, 3)}
    assert jnp.array_equal(batch["weights"]["b"][3], 3.0)


def test_states_of_any_optimizer_have_a_place():
    for name in ("adamw", "lamb"):
        for corrected in (True, False):
            optimizer = make_optimizer(OptimizerConfig(optimizer=name, bias_correction=corrected), 10)
            shapes = abstract_state(initial_params(model()), optimizer)
            assert isinstance(shapes, State)
            placed = by_path(tree_shardings(shapes, parse_mesh("fsdp:8")).opt)
            moments = [sharding for path, sharding in placed.items() if path.endswith("token/embedding")]
            assert [sharding.spec for sharding in moments] == [P("tensor", "fsdp")] * 2
