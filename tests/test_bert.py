"""BERT as published: sizes, what is computed where, its objectives, and what its inputs mean."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import config as sizes
from bert_jax.config import PRESETS
from bert_jax.model import Bert, BertForPretraining
from bert_jax.tasks import initial_params, make_scoring, pretraining_loss, unigram_scores
from core_jax.transformer import Stack
from tests.tiny_bert import CONFIG, LENGTH, fresh_state, host_batch, model

KEY = jax.random.key(0)


def parameters(shapes):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def test_bert_base_has_as_many_parameters_as_the_peer_library_counts():
    assert parameters(jax.eval_shape(initial_params(BertForPretraining(sizes.BASE)), KEY)) == 110_106_428


PUBLISHED = {  # millions, of Turc et al. 2019, table 1; of large, Devlin et al. 2018, section 3
    "bert-tiny": "4.4",
    "bert-mini": "11.3",
    "bert-small": "29.1",
    "bert-medium": "41.7",
    "bert-base": "110.1",
    "bert-large": "3.4e+02",
}


@pytest.mark.parametrize("preset", PRESETS)
def test_parameters_of_the_presets(preset):
    config = dataclasses.replace(PRESETS[preset].model, scan_layers=True, vocab_size=30_522)
    width, hidden = config.width, config.mlp_width
    norm = 2 * width
    layer = 4 * (width * width + width) + (width * hidden + hidden) + (hidden * width + width) + 2 * norm
    nothing = jnp.zeros((1, 8, width))
    encoder = parameters(jax.eval_shape(lambda key: Stack(config).init(key, nothing), KEY))
    assert encoder == config.depth * layer
    tables = (config.vocab_size + 512 + 2) * width + norm
    pooler = transform = width * width + width
    heads = transform + norm + config.vocab_size + (2 * width + 2)
    total = parameters(jax.eval_shape(initial_params(BertForPretraining(config)), KEY))
    assert total == tables + encoder + pooler + heads
    decimals = ".1f" if preset != "bert-large" else ".2g"
    assert f"{total / 1e6:{decimals}}" == PUBLISHED[preset]


def test_pieces_are_predicted_only_where_asked():
    rows, length, predictions = 3, 64, 10
    config = dataclasses.replace(sizes.BASE, scan_layers=True)
    shape = lambda *dims: jax.ShapeDtypeStruct(dims, jnp.int32)  # noqa: E731
    batch = {name: shape(rows, length) for name in ("tokens", "segments", "types")}
    batch |= {name: shape(rows, predictions) for name in ("mlm_positions", "mlm_labels")}
    batch |= {"nsp_labels": shape(rows), "weights": {"mlm": jnp.ones((rows, predictions)), "nsp": jnp.ones(rows)}}
    bert = BertForPretraining(config)
    params = jax.eval_shape(initial_params(bert), KEY)
    program = jax.make_jaxpr(jax.grad(pretraining_loss(bert, train=True), has_aux=True))(params, batch, KEY)
    found = {tuple(map(int, dims.split(","))) for dims in re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", str(program))}
    over_pieces = {dims for dims in found if config.vocab_size in dims}
    assert (rows, predictions, config.vocab_size) in over_pieces  # the search does see logits
    assert not [dims for dims in over_pieces if length in dims or rows * length in dims]


@functools.cache
def value_and_gradient():
    """Compiled (params, batch) -> ((loss, metrics), gradients)."""
    return jax.jit(
        lambda params, batch: jax.value_and_grad(pretraining_loss(model(), train=True), has_aux=True)(
            params, batch, KEY
        )
    )


@functools.cache
def bert_params():
    """Parameters of which none is 0 or 1, so that every input shows."""
    leaves, tree = jax.tree.flatten(fresh_state().params)
    random = np.random.default_rng(3)
    return jax.tree.unflatten(
        tree, [leaf + jnp.asarray(0.2 * random.standard_normal(leaf.shape), jnp.float32) for leaf in leaves]
    )


def batch_of(rows=6):
    return jax.tree.map(jnp.asarray, host_batch(0, rows))


def flops_by_hand(lengths, predictions, pairs):
    """Of a step of the tiny BERT: width 16, 2 layers, MLP 32, 32 pieces; two for each weight that a position meets."""
    layers = 2 * sum(2 * length * (4 * 16 * 16 + 2 * 16 * 32) + 4 * 16 * length**2 for length in lengths)
    return 3 * (layers + predictions * 2 * 16 * (16 + 32) + pairs * 2 * 16 * (16 + 2))


def test_loss_and_metrics_by_hand():
    batch, params = host_batch(0, 6), bert_params()
    batch["weights"]["nsp"][2] = 0
    inputs = jax.tree.map(jnp.asarray, batch)
    (loss, metrics), _ = value_and_gradient()(params, inputs)
    logits = jax.jit(model().apply)(
        {"params": params}, *(inputs[name] for name in ("tokens", "segments", "types", "mlm_positions"))
    )
    expected, total = {}, 0.0
    for name, raw in zip(("mlm", "nsp"), logits, strict=True):
        exact, weights = np.asarray(raw, np.float64), batch["weights"][name]
        losses, right = np.zeros(weights.shape), np.zeros(weights.shape)
        for index in np.ndindex(weights.shape):
            label = batch[f"{name}_labels"][index]
            losses[index] = np.log(np.exp(exact[index]).sum()) - exact[index][label]
            right[index] = exact[index].argmax() == label
        expected[f"{name}_loss"] = (losses * weights).sum(), weights.sum()
        expected[f"{name}_accuracy"] = (right * weights).sum(), weights.sum()
        total += (losses * weights).sum() / weights.sum()
    expected["useful_positions"] = np.count_nonzero(batch["segments"]), 6 * LENGTH
    lengths, full = np.count_nonzero(batch["segments"], axis=1), np.full(6, LENGTH)
    predicted = (np.count_nonzero(batch["weights"][name]) for name in ("mlm", "nsp"))
    expected["useful_flops"] = flops_by_hand(lengths, *predicted), flops_by_hand(full, batch["mlm_labels"].size, 6)
    assert metrics.keys() == expected.keys()
    for name, ratio in expected.items():
        np.testing.assert_allclose(metrics[name], ratio, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(loss, total, rtol=1e-5)


def test_a_weight_of_zero_takes_an_example_out_of_loss_and_gradient():
    batch = batch_of()
    last = jnp.arange(6) == 5
    batch["weights"] = {
        "mlm": jnp.where(last[:, None], 0.0, batch["weights"]["mlm"]),
        "nsp": jnp.where(last, 0.0, batch["weights"]["nsp"]),
    }
    other = batch | {
        name: jnp.where(last.reshape(-1, *[1] * (batch[name].ndim - 1)), (batch[name] + 1) % 2, batch[name])
        for name in ("tokens", "types", "mlm_labels", "nsp_labels")
    }
    unweighted = batch["weights"]["mlm"] == 0  # such positions fill up every row
    other["mlm_positions"] = jnp.where(unweighted, 0, batch["mlm_positions"])
    other["mlm_labels"] = jnp.where(unweighted, 7, other["mlm_labels"])
    assert any(np.any(other[name] != batch[name]) for name in batch if name != "weights")
    ((loss, metrics), gradients), ((other_loss, _), other_gradients) = (
        value_and_gradient()(bert_params(), each) for each in (batch, other)
    )
    assert loss == other_loss
    jax.tree.map(np.testing.assert_array_equal, gradients, other_gradients)
    without = jax.tree.map(lambda leaf: leaf[:5], batch)
    ((shorter_loss, shorter_metrics), shorter_gradients) = value_and_gradient()(bert_params(), without)
    np.testing.assert_allclose(loss, shorter_loss, rtol=1e-6)
    assert metrics["mlm_loss"][1] == shorter_metrics["mlm_loss"][1]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), gradients, shorter_gradients)


def test_a_batch_without_anything_to_predict_gives_zeros_not_nan():
    batch = batch_of()
    batch["weights"] = jax.tree.map(jnp.zeros_like, batch["weights"])
    (loss, _), gradients = value_and_gradient()(bert_params(), batch)
    assert loss == 0
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradients))


def test_the_weight_of_next_sentence_prediction_scales_its_part_of_the_gradient_alone():
    batch = batch_of()

    def gradient(weight):
        loss = pretraining_loss(model(), train=True, next_sentence_weight=weight)
        return jax.jit(jax.grad(loss, has_aux=True))(bert_params(), batch, jax.random.key(0))

    (without, metrics), (once, _), (twice, _) = (gradient(weight) for weight in (0.0, 1.0, 2.0))
    for part in (without["next_sentence_classifier"], without["bert"]["pooler"]):
        assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(part))
    assert metrics["nsp_loss"][0] > 0  # is still shown
    jax.tree.map(
        lambda none, one, two: np.testing.assert_allclose(two - one, one - none, rtol=1e-4, atol=1e-6),
        without,
        once,
        twice,
    )


def test_unigram_scores_by_hand():
    batch, counts = host_batch(4, 6), np.random.default_rng(0).integers(0, 50, CONFIG.vocab_size)
    counts[7] = 0  # was never seen in training
    batch["mlm_labels"][0, 0], batch["weights"]["mlm"][0, 0] = 7, 1
    batch["mlm_labels"][1, 0], batch["weights"]["mlm"][1, 0] = counts.argmax(), 1
    weights = batch["weights"]["mlm"].astype(np.float64)
    frequencies = (counts + 1) / (counts.sum() + CONFIG.vocab_size)
    losses = -np.log(frequencies[batch["mlm_labels"]])
    right = batch["mlm_labels"] == counts.argmax()
    found, filled = make_scoring(model(), counts)(bert_params(), jax.tree.map(jnp.asarray, batch))
    right_pieces = np.sum((filled == batch["mlm_labels"]) * weights)
    np.testing.assert_allclose(found["mlm_accuracy"], [right_pieces, weights.sum()])
    alone = unigram_scores(counts)(jax.tree.map(jnp.asarray, batch))
    for scores in (found, alone):
        np.testing.assert_allclose(scores["unigram_loss"], [(losses * weights).sum(), weights.sum()], rtol=1e-6)
        np.testing.assert_allclose(scores["unigram_accuracy"], [(right * weights).sum(), weights.sum()], rtol=1e-6)
    assert found.keys() > {"mlm_loss", "nsp_loss", "mlm_accuracy", "nsp_accuracy", "unigram_loss"}


@functools.cache
def hidden_states():
    """Compiled (tokens, segments, types, positions) -> hidden states and pooled state."""
    bert = jax.jit(Bert(CONFIG).apply)
    return lambda *inputs: bert({"params": bert_params()["bert"]}, *inputs)


def test_positions_count_from_zero_unless_given():
    batch = batch_of(2)
    inputs = [batch[name] for name in ("tokens", "segments", "types")]
    places = jnp.broadcast_to(jnp.arange(LENGTH), (2, LENGTH))
    expected = hidden_states()(*inputs)
    jax.tree.map(np.testing.assert_array_equal, hidden_states()(*inputs, places), expected)
    shifted = hidden_states()(*inputs, (places + 1) % LENGTH)
    assert np.all(np.any(shifted[0] != expected[0], axis=-1))


def test_rows_packed_into_one_are_read_as_if_apart():
    random = np.random.default_rng(5)
    tokens, types = (jnp.asarray(random.integers(0, high, (2, 4)), jnp.int32) for high in (CONFIG.vocab_size, 2))
    places = jnp.broadcast_to(jnp.arange(4), (2, 4))
    apart, _ = hidden_states()(tokens, jnp.ones_like(tokens), types, places)
    segments = jnp.array([[1, 1, 1, 1, 2, 2, 2, 2]])
    packed, _ = hidden_states()(tokens.reshape(1, 8), segments, types.reshape(1, 8), places.reshape(1, 8))
    np.testing.assert_allclose(packed.reshape(apart.shape), apart, rtol=1e-5, atol=1e-6)


def test_types_matter():
    batch = batch_of(2)
    tokens, segments, types = (batch[name] for name in ("tokens", "segments", "types"))
    before, after = (hidden_states()(tokens, segments, each) for each in (types, 1 - types))
    assert np.all(np.any(before[0] != after[0], axis=-1))
    assert np.all(np.any(before[1] != after[1], axis=-1))


def test_the_pooled_state_is_made_of_the_first_position():
    batch = batch_of(2)
    hidden, pooled = hidden_states()(*(batch[name] for name in ("tokens", "segments", "types")))
    dense = bert_params()["bert"]["pooler"]["dense"]
    np.testing.assert_allclose(
        pooled, np.tanh(hidden[:, 0] @ dense["kernel"] + dense["bias"][None]), rtol=1e-5, atol=1e-6
    )
