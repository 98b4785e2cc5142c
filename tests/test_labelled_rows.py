"""Batches of labelled texts: packed, they are the same examples with the same loss; each is asked once."""

import functools
from typing import Any

import jax
import numpy as np
import pytest

from bert_jax.labelled_rows import (
    LabelledTexts,
    labelled_batches,
    pack_texts,
    rounded_rows,
    row_capacity,
    scoring_batches,
    unlabelled_batches,
)
from bert_jax.labelling import initial_label_params, labelling_loss
from core_jax.data import Order
from tests.labelled_words import HEADS, LENGTH, examples, model
from tests.tiny_training import MESHES, mesh_of


def alone(data: LabelledTexts, drawn: np.ndarray) -> dict:
    """The same batch with one text in a row, as everybody else does it."""
    batches = []
    for text in data.members(drawn):
        single = LabelledTexts(
            data.head,
            [data.tokens[text]],
            data.first[[text]],
            np.zeros(1, np.int32),
            [data.labels[text]],
            data.weights[[text]],
            1,
            data.pad_id,
        )
        if data.head == "choice":
            single = LabelledTexts(**{**vars(single), "head": "regression"})
        batch = pack_texts(single, np.array([0]), LENGTH, 1)
        wide = {
            name: np.pad(batch[name], ((0, 0), (0, LENGTH - batch[name].shape[1])))
            for name in ("tokens", "segments", "types", "positions")
        }
        batch |= wide
        if data.head == "token":
            width = LENGTH - batch["labels"].shape[1]
            batch["labels"] = np.pad(batch["labels"], ((0, 0), (0, width)))
            batch["weights"] = {"label": np.pad(batch["weights"]["label"], ((0, 0), (0, width)))}
        for name in ("cls_positions", "texts"):
            batch[name] = batch[name][:, :1]
        if data.head != "token":
            batch["labels"] = batch["labels"][:, :1]
            batch["weights"] = {name: value[:, :1] for name, value in batch["weights"].items()}
        batches.append(batch)
    whole = jax.tree.map(lambda *parts: np.concatenate(parts), *batches)
    if data.head == "choice":
        size = data.texts_per_example
        whole["choices"] = np.arange(len(drawn) * size, dtype=np.int32).reshape(-1, size)
        whole["labels"] = np.array([data.labels[number * size] for number in drawn], np.int32)
        whole["weights"] = {"label": np.ones(len(drawn), np.float32)}
    return whole


@functools.cache
def params_of(head):
    return initial_label_params(model(head))(jax.random.key(1))


@pytest.mark.parametrize(
    "head", [pytest.param(head, marks=pytest.mark.slow if head in ("regression", "choice") else ()) for head in HEADS]
)
def test_packing_changes_neither_loss_nor_gradient(head):
    data, drawn = examples(head).texts, np.arange(20)
    loss: Any = jax.jit(jax.value_and_grad(labelling_loss(model(head), train=False), has_aux=True))

    def compute(batch):
        inputs = params_of(head), batch, jax.random.key(0)
        return loss.lower(*inputs).compile()(*inputs)

    packed = pack_texts(data, drawn, LENGTH, 1)
    assert (packed["texts"] >= 0).sum(axis=1).max() > 1
    (ours, metrics), gradient = compute(packed)
    (theirs, others), expected = compute(alone(data, drawn))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradient, expected)
    for name in metrics.keys() - {"useful_positions"}:
        np.testing.assert_allclose(metrics[name], others[name], rtol=1e-6)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("mesh_text", MESHES[:3])
def test_every_text_stands_in_one_place_of_one_batch(head, mesh_text):
    data, seen = examples(head).texts, []
    texts: Any
    for texts, batch, _ in scoring_batches(data, mesh_of(mesh_text), batch_size=7, sequence_length=LENGTH):
        seen += texts[texts >= 0].tolist()
        for row, column in zip(*np.nonzero(texts >= 0), strict=True):
            own = batch["segments"][row] == column + 1
            np.testing.assert_array_equal(batch["tokens"][row][own], data.tokens[texts[row, column]])
            np.testing.assert_array_equal(batch["positions"][row][own], np.arange(own.sum()))
            assert batch["types"][row][own].sum() == own.sum() - data.first[texts[row, column]]
    assert sorted(seen) == list(range(len(data.tokens)))


def test_without_labels_every_text_stands_in_full_rows_of_one_shape():
    data = examples("classification").texts
    batches = list(unlabelled_batches(data, batch_size=7, sequence_length=LENGTH, multiple=2))
    places = [batch["texts"][batch["texts"] >= 0] for batch in batches]
    assert sorted(np.concatenate(places).tolist()) == list(range(len(data.tokens)))
    assert len(batches) > 1
    assert len({batch["tokens"].shape for batch in batches}) == 1
    assert len(batches[0]["tokens"]) % 2 == 0
    for batch in batches:
        for row, column in zip(*np.nonzero(batch["texts"] >= 0), strict=True):
            own = batch["segments"][row] == column + 1
            np.testing.assert_array_equal(batch["tokens"][row][own], data.tokens[batch["texts"][row, column]])


def test_a_step_learns_from_the_examples_that_its_number_names():
    data, order = examples("classification").texts, Order(24, 3)
    batches = labelled_batches(
        data, mesh_of("data:1"), batch_size=5, sequence_length=LENGTH, seed=3, first_step=2, last_step=9
    )
    for step, batch in enumerate(batches, start=2):
        wanted = [order(step * 5 + place)[1] for place in range(5)]
        lengths = sorted(len(data.tokens[number]) for number in wanted)
        labels = np.asarray(batch["labels"])[np.asarray(batch["weights"]["label"]) > 0]
        assert sorted(labels.tolist()) == sorted(data.labels[number] for number in wanted)
        assert int((np.asarray(batch["segments"]) > 0).sum()) == sum(lengths)


def test_few_numbers_of_rows_occur():
    for multiple in (1, 8):
        rows = [rounded_rows(needed, multiple) for needed in range(1, 1025)]
        assert all(found >= needed and found % multiple == 0 for needed, found in enumerate(rows, start=1))
        assert all(found <= max(1.25 * needed + multiple, multiple) for needed, found in enumerate(rows, start=1))
        assert len(set(rows)) <= 40


def test_rows_are_as_long_as_their_longest_text_needs():
    assert [row_capacity(longest, 128) for longest in (1, 32, 33, 64, 65, 128)] == [32, 32, 64, 64, 128, 128]
