"""Packed sentence pairs: the same examples, loss and gradients as unpacked."""

import collections
import dataclasses
import functools
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bert_jax.config import PRESETS
from bert_jax.packed_pairs import PackedPairs
from bert_jax.pretraining import prepare_text
from bert_jax.pretraining_data import PretrainingExamples
from bert_jax.tasks import initial_params, pretraining_loss
from core_jax.data import training_batches
from core_jax.sharding import global_batch, tree_shardings
from core_jax.train import RATES, State, make_step
from core_jax.transformer import Stack, stack_layers, unstack_layers
from tests.numbered_text import numbered_corpus, numbered_documents
from tests.tiny_bert import change_layers, model
from tests.tiny_training import mesh_of

T = 64
KEY = jax.random.key(0)
ROWS = 8


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return numbered_corpus(tmp_path_factory.mktemp("packed"), numbered_documents(150, seed=4, longest_sentence=12))


def examples_of(source, length=T, **options):
    return PretrainingExamples(*source, sequence_length=length, seed=1, **options)


@pytest.fixture(scope="module")
def packed(source):
    return PackedPairs(examples_of(source), seed=1)


@pytest.mark.parametrize("length", [8, 12, 32, 64, 512])
@pytest.mark.parametrize("short", [0.0, 0.1, 1.0])
def test_lengths_are_those_of_the_drawn_pairs(source, length, short):
    examples = examples_of(source, length, short_probability=short)
    for epoch in (0, 1, 9):
        drawn = [len(examples.pair(epoch, index).tokens) for index in range(len(examples))]
        assert examples.lengths(epoch).tolist() == drawn


def test_lengths_by_blocks(source, monkeypatch):
    expected = examples_of(source).lengths(2)
    monkeypatch.setattr("bert_jax.pretraining_data.LENGTHS_AT_ONCE", 7)
    np.testing.assert_array_equal(examples_of(source).lengths(2), expected)


@pytest.mark.parametrize("length", [8, 32, 64, 512])
@pytest.mark.parametrize("whole_words", [False, True])
def test_rows_hold_each_pair_once_as_it_is_unpacked(source, length, whole_words):
    packed = PackedPairs(examples_of(source, length, mask_probability=0.3, whole_word_masking=whole_words), seed=1)
    for epoch in (0, 4):
        seen = collections.Counter()
        for index in range(len(packed)):
            row, members = packed.example(epoch, index), packed.members(epoch, index)
            seen.update(members)
            pairs = packed.row(epoch, index)
            assert len(members) <= len(pairs) <= min(len(members) + 1, packed.pairs_per_row)
            for member, pair in zip(members, pairs, strict=False):
                jax.tree.map(np.testing.assert_array_equal, pair, packed.pairs.pair(epoch, member))
            check_row(row, pairs, packed)
        assert sorted(seen.elements()) == list(range(len(packed.pairs)))


def check_row(row, pairs, packed):
    """A row is what joining its pairs by hand gives."""
    length, count = len(row["tokens"]), len(pairs)
    expected = np.concatenate([pair.tokens for pair in pairs])
    assert len(expected) <= length
    assert row["tokens"].tolist() == [*expected, *[packed.pairs.pad_id] * (length - len(expected))]
    for number, pair in enumerate(pairs, start=1):
        place = np.flatnonzero(row["segments"] == number)
        assert row["cls_positions"][number - 1] == place[0]
        assert (row["tokens"][place] == pair.tokens).all()
        assert (row["types"][place] == pair.types).all()
        assert (row["positions"][place] == np.arange(len(place))).all()
        assert row["nsp_labels"][number - 1] == pair.nsp_label
    assert row["tokens"][row["cls_positions"][:count]].tolist() == [2] * count
    assert row["segments"].max() == count
    assert not row["segments"][len(expected) :].any()
    used = row["weights"]["mlm"] == 1
    labels = np.concatenate([pair.mlm_labels for pair in pairs])
    assert used.sum() == len(labels)  # none is lost
    assert row["mlm_labels"][used].tolist() == labels.tolist()
    inside = row["mlm_positions"][used] - row["cls_positions"][row["segments"][row["mlm_positions"][used]] - 1]
    assert inside.tolist() == np.concatenate([pair.mlm_positions for pair in pairs]).tolist()
    assert row["weights"]["nsp"].tolist() == [1] * count + [0] * (packed.pairs_per_row - count)


def test_shapes_never_change(packed):
    shapes = {
        str(jax.tree.map(lambda leaf: (leaf.dtype.name, leaf.shape), packed.example(epoch, row)))
        for epoch in range(3)
        for row in range(len(packed))
    }
    assert len(shapes) == 1


@pytest.mark.parametrize("length", [128, 512])
def test_padding_is_below_5_percent(tmp_path_factory, length):
    """Documents like the sample's: of 140 tokens on average, most of them between 60 and 260."""
    random = np.random.default_rng(0)
    documents, next_id = [], 5
    for _ in range(700):
        sentences = []
        for size in random.integers(8, 40, random.integers(3, 10)).tolist():
            sentences.append(list(range(next_id, next_id + size)))
            next_id += size
        documents.append(sentences)
    examples = examples_of(numbered_corpus(tmp_path_factory.mktemp("sample_like"), documents), length)
    packed = PackedPairs(examples, seed=1)
    assert 1 - examples.lengths(0).mean() / length > 0.1  # unpacked
    assert packed.measure(range(len(packed)))[1] < 0.05


def test_random_access_by_threads_processes_and_after_a_resume(packed, source):
    again = PackedPairs(examples_of(source), seed=1)
    places = [(epoch, row) for epoch in (2, 0, 1) for row in range(len(packed))]
    expected = {place: packed.example(*place) for place in places}
    for place in places[::-5]:
        jax.tree.map(np.testing.assert_array_equal, again.example(*place), expected[place])
    copy = pickle.loads(pickle.dumps(packed))
    jax.tree.map(np.testing.assert_array_equal, copy.example(*places[3]), expected[places[3]])
    mesh, options = mesh_of("data:1"), {"batch_size": 8, "seed": 5, "last_step": 2 * len(packed) // 8}
    whole = list(training_batches(packed, mesh, first_step=0, **options))
    rest = list(training_batches(again, mesh, first_step=5, **options))
    assert len(rest) == len(whole) - 5
    for ours, theirs in zip(rest, whole[5:], strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def stack(examples):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *examples)


def unpacked_pair(pair, predictions):
    """A batch's row of one pair alone, padded to T."""
    row = {
        "tokens": pair.tokens,
        "segments": np.ones_like(pair.tokens),
        "types": pair.types,
        "mlm_positions": pair.mlm_positions,
        "mlm_labels": pair.mlm_labels,
    }
    sizes = {"mlm_positions": predictions, "mlm_labels": predictions}
    row = {name: np.pad(value, (0, sizes.get(name, T) - len(value))) for name, value in row.items()}
    weights = {"mlm": (np.arange(predictions) < len(pair.mlm_labels)).astype(np.float32), "nsp": np.float32(1)}
    return row | {"nsp_labels": np.int32(pair.nsp_label), "weights": weights}


@pytest.fixture(scope="module")
def batches(packed):
    """The same pairs in ROWS packed rows, and each in a row of its own."""
    by_size = sorted(range(len(packed)), key=lambda row: len(packed.row(0, row)))
    rows = by_size[: ROWS // 2] + by_size[-ROWS // 2 :]
    pairs = [pair for row in rows for pair in packed.row(0, row)]
    assert len(pairs) > 1.5 * ROWS
    return (
        stack([packed.example(0, row) for row in rows]),
        stack([unpacked_pair(pair, packed.predictions) for pair in pairs]),
    )


def bert(source, **changes):
    return model(vocab_size=source[1].vocab_size + source[1].vocab_size % 2, maximum_positions=T, **changes)


@functools.cache
def random_params(make):
    """Parameters of which none is 0 or 1, so that every input shows."""
    leaves, tree = jax.tree.flatten(initial_params(make())(KEY))
    random = np.random.default_rng(3)
    noise = [jnp.asarray(0.1 * random.standard_normal(leaf.shape), jnp.float32) for leaf in leaves]
    return jax.tree.unflatten(tree, [leaf + part for leaf, part in zip(leaves, noise, strict=True)])


@pytest.fixture(scope="module")
def params(source):
    return random_params(functools.partial(bert, source))


def evaluate(model, params, batch, mesh):
    """Loss, metrics and gradients on a mesh."""

    @jax.jit
    def compute(params, batch):
        return jax.value_and_grad(pretraining_loss(model, train=True), has_aux=True)(params, batch, KEY)

    with jax.set_mesh(mesh):
        out = compute(jax.device_put(params, tree_shardings(params, mesh)), global_batch(batch, mesh))
        return jax.device_get(out)


def assert_same(found, expected):
    ((loss, metrics), gradients), ((expected_loss, expected_metrics), expected_gradients) = found, expected
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    for name, ratio in expected_metrics.items():
        if name in RATES:  # as much that is useful, of less
            assert metrics[name][0] == ratio[0]
            assert metrics[name][1] < ratio[1]
        else:
            np.testing.assert_allclose(metrics[name], ratio, rtol=1e-5, err_msg=name)
    # An element of a gradient is a sum whose terms cancel, so its rounding error goes with the size of the terms.
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected_gradients))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6 * largest)
    jax.tree.map(close, gradients, expected_gradients)


@pytest.fixture(scope="module")
def expected(source, params, batches):
    return evaluate(bert(source), params, batches[1], mesh_of("data:1"))


@pytest.mark.parametrize("mesh", ["data:1", "data:2,fsdp:2,tensor:2"])
@pytest.mark.parametrize("scan_layers", [False, True])
def test_loss_and_gradients_are_those_of_unpacked_pairs(source, params, batches, expected, mesh, scan_layers):
    if scan_layers:
        params = change_layers(params, stack_layers)
    value, gradients = evaluate(bert(source, scan_layers=scan_layers), params, batches[0], mesh_of(mesh))
    assert_same((value, change_layers(gradients, unstack_layers) if scan_layers else gradients), expected)


@pytest.mark.parametrize("attention", ["reference", "xla"])
def test_each_attention(source, params, batches, expected, attention):
    assert_same(evaluate(bert(source, attention=attention), params, batches[0], mesh_of("data:1")), expected)


def test_accumulated_in_parts_with_different_numbers_of_pairs(source, params, batches):
    packed = batches[0]
    counts = packed["weights"]["nsp"].reshape(-1, 4, packed["weights"]["nsp"].shape[1]).sum((0, 2))
    assert len(set(counts.tolist())) > 1
    optimizer, results = optax.sgd(0.1), []
    for parts in (1, 4):
        step = jax.jit(make_step(pretraining_loss(bert(source), train=True), optimizer, parts))
        results.append(
            jax.device_get(step(State(jnp.zeros((), jnp.int32), params, optimizer.init(params), KEY), packed))
        )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, results[1][1], results[0][1])
    jax.tree.map(close, results[1][0].params, results[0][0].params)


def test_no_pair_sees_another(source, packed, params):
    row = max(range(len(packed)), key=lambda row: len(packed.row(0, row)))
    segments = jnp.asarray(packed.example(0, row)["segments"])[None]
    encoder: Any = functools.partial(Stack(bert(source).config).apply, {"params": params["bert"]["encoder"]})
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, T, 16)), jnp.float32)
    assert segments.max() > 1
    for number in range(1, int(segments.max()) + 1):
        inside = segments[..., None] == number
        gradient = jax.grad(lambda x, inside=inside: jnp.sum(jnp.where(inside, encoder(x, segments), 0.0) ** 2))(x)
        assert np.all(np.where(inside, 0.0, gradient) == 0)
        assert np.all(np.any(np.where(inside, gradient, 0.0) != 0, axis=-1) == inside[..., 0])


@pytest.mark.slow
@pytest.mark.parametrize("length", [128, 512])
def test_padding_on_the_sample_is_below_5_percent(tmp_path, length):
    preset = PRESETS["bert-tiny"]
    text = dataclasses.replace(preset.text, sequence_length=length, packing=True)
    packed = prepare_text(dataclasses.replace(preset, text=text), str(tmp_path), lambda line: None).train
    assert isinstance(packed, PackedPairs)
    for epoch in range(4):
        members = [member for row in range(len(packed)) for member in packed.members(epoch, row)]
        assert sorted(members) == list(range(len(packed.pairs)))
    assert packed.measure(range(len(packed)))[1] < 0.05
