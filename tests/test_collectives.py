"""Which collectives stand in the compiled step, for each kind of mesh: none that moves activations unasked."""

import collections
import dataclasses
import functools
import math
from typing import Any

import jax
import pytest

from bert_jax.config import BertConfig, BertPretraining, TextConfig
from bert_jax.model import BertForPretraining
from bert_jax.pretraining import batch_shapes
from bert_jax.tasks import initial_params, training_step
from core_jax.config import OptimizerConfig, TrainingConfig
from core_jax.optimizers import make_optimizer
from core_jax.sharding import batch_sharding, parse_mesh, partition_spec, path_name, with_shardings
from core_jax.topologies import describe_devices, parse_topology
from core_jax.traffic import Exchange, list_exchanges
from core_jax.train import abstract_state

# A shape says what it is: 7 divides the number of rows of the batch on every device, and no other size.
BATCH, LENGTH, SEVEN = 56, 29, 7
CONFIG = BertConfig(
    width=88,
    depth=2,
    heads=8,
    mlp_width=104,
    vocab_size=136,
    maximum_positions=31,
    dropout=0.0,
    attention_dropout=0.0,
    dtype="float32",
)
OPTIMIZER = make_optimizer(OptimizerConfig(warmup_steps=1), 10)


def run_of(config: BertConfig, packing: bool) -> BertPretraining:
    text = TextConfig(sequence_length=LENGTH, packing=packing)
    training = TrainingConfig(global_batch_size=BATCH)
    return BertPretraining(model=config, text=text, optimizer=OptimizerConfig(), training=training)


@functools.cache
def parameters(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of all parameters, by path."""
    shapes = jax.eval_shape(initial_params(BertForPretraining(config)), jax.random.key(0))
    return {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_flatten_with_path(shapes)[0]}


def exchanges(mesh, config: BertConfig, packing: bool) -> list[Exchange]:
    """The collectives of the compiled training step."""
    model = BertForPretraining(config)
    state = with_shardings(abstract_state(initial_params(model), OPTIMIZER), mesh)
    rows = batch_sharding(mesh)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), batch_shapes(run_of(config, packing))
    )
    with jax.set_mesh(mesh):
        step: Any = training_step(model, OPTIMIZER, state, 1)
        return list_exchanges(step.lower(state, batch).compile().as_text())


@functools.cache
def simulated(mesh_text: str, packing: bool = False, scan_layers: bool = False) -> list[Exchange]:
    """The collectives on simulated CPU devices."""
    return exchanges(parse_mesh(mesh_text), dataclasses.replace(CONFIG, scan_layers=scan_layers), packing)


def count(found: list[Exchange], of_activations: bool) -> collections.Counter:
    """How often each (kind, shape) is exchanged; scalars left out."""
    counts = collections.Counter()
    for exchange in found:
        for shape in exchange.shapes:
            if shape and any(size % SEVEN == 0 for size in shape) == of_activations:
                counts[exchange.kind, shape] += exchange.turns
    return counts


def expected_activations(mesh, config: BertConfig, packing: bool, projections: int, maxima: int) -> dict:
    """Only heads, MLP width and vocabulary that are divided over the tensor axis make activations move.

    Args:
      mesh: of the step.
      config: of the model.
      packing: of the run.
      projections: products that queries, keys and values come from: one, or one each; backward, each leaves a part.
      maxima: whether the largest logits are found beside those that accuracy needs.
    """
    tensor = mesh.shape["tensor"]
    if tensor == 1:
        return {}
    rows, predictions = BATCH // (mesh.shape["data"] * mesh.shape["fsdp"]), predictions_of(config, packing)
    hidden = 1 + config.depth * (2 + 1 + projections)  # tokens looked up; forward two a layer; backward the MLP's too
    return {
        ("all-reduce", (rows, LENGTH, config.width)): hidden,
        ("all-reduce", (rows, predictions, config.width)): 1,  # backward, from the decoder
        ("all-reduce", (rows, predictions)): 2 + maxima,  # of the softmax over all pieces: sum, right answer
        ("all-gather", (rows, predictions, tensor)): 2,  # the best answer of each device, and its logit: for accuracy
    }


def predictions_of(config, packing):
    return batch_shapes(run_of(config, packing))["mlm_positions"].shape[1]


def parts(mesh, config: BertConfig, axes: tuple[str, ...]) -> dict[str, int]:
    """The size of a device's part of each parameter, were it divided over these axes alone."""
    sizes = {}
    for path, shape in parameters(config).items():
        divided = [axis for axis in partition_spec(path, len(shape)) if axis in axes]
        sizes[path] = math.prod(shape) // math.prod(mesh.shape[axis] for axis in divided)
    return sizes


def expected_gathers(mesh, config: BertConfig) -> collections.Counter:
    """Each parameter that is divided over the fsdp axis is gathered once; scanned layers gather it again backward."""
    sizes, scanned = collections.Counter(), parts(mesh, config, ("tensor",))
    if mesh.shape["fsdp"] > 1:
        for path, shape in parameters(config).items():
            if "fsdp" in partition_spec(path, len(shape)):
                in_scan = "/blocks/" in path
                sizes[scanned[path] // (config.depth if in_scan else 1)] += 2 * config.depth if in_scan else 1
    return sizes


def by_size(counts: collections.Counter, *kinds: str) -> collections.Counter:
    sizes = collections.Counter()
    for (kind, shape), times in counts.items():
        if kind in kinds:
            sizes[math.prod(shape)] += times
    return sizes


MESHES = ("data:8", "fsdp:8", "tensor:8", "data:2,fsdp:4", "fsdp:2,tensor:4", "data:2,fsdp:2,tensor:2")
CASES = [(mesh, False, False) for mesh in MESHES]
CASES += [("data:2,fsdp:2,tensor:2", True, False), ("fsdp:2,tensor:4", True, True), ("data:2,fsdp:4", False, True)]


@pytest.mark.parametrize(("mesh_text", "packing", "scan_layers"), CASES)
def test_collectives_of_a_step(mesh_text, packing, scan_layers):
    mesh, config = parse_mesh(mesh_text), dataclasses.replace(CONFIG, scan_layers=scan_layers)
    found = simulated(mesh_text, packing, scan_layers)
    assert count(found, of_activations=True) == expected_activations(mesh, config, packing, projections=3, maxima=1)
    weights = count(found, of_activations=False)
    assert {kind for kind, _ in weights} <= {"all-reduce", "all-gather"}
    assert by_size(weights, "all-gather") == expected_gathers(mesh, config)


@pytest.mark.parametrize("mesh_text", ["data:8", "fsdp:8"])
def test_every_gradient_is_reduced_once(mesh_text):
    """That of the token table twice, as a lookup and as the decoder; and of positions only those that rows have."""
    width, vocabulary, positions = CONFIG.width, CONFIG.vocab_size, CONFIG.maximum_positions
    sizes = collections.Counter(math.prod(shape) for shape in parameters(CONFIG).values())
    sizes += collections.Counter({vocabulary * width: 1, LENGTH * width: 1})
    sizes -= collections.Counter({positions * width: 1})
    assert by_size(count(simulated(mesh_text), of_activations=False), "all-reduce") == sizes


@pytest.mark.slow
@pytest.mark.parametrize("mesh_text", ["data:8", "fsdp:8", "data:2,fsdp:2,tensor:2"])
def test_collectives_by_the_compiler_for_tpu(mesh_text):
    mesh = parse_mesh(mesh_text, describe_devices(parse_topology("v5e:2x4")))
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    found = exchanges(mesh, config, packing=False)
    assert count(found, of_activations=True) == expected_activations(mesh, config, False, projections=1, maxima=0)
    gathered = sum(by_size(count(found, of_activations=False), "all-gather").values())
    # Backward, layers are gathered again, rather than kept; queries, keys and values at once.
    assert gathered == (0 if mesh.shape["fsdp"] == 1 else 2 * 4 * config.depth + 3)
