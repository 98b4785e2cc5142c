"""What a ViT learns from labels: losses, accuracies, and images mixed with each other."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.errors import UserError
from core_jax.metrics import accuracy, top_accuracy
from tests.tiny_vit import CLASSES, PLAIN, host_batch, model, random_params
from vit_jax.mixing import make_mixing
from vit_jax.supervision import SupervisionConfig
from vit_jax.tasks import classification_loss, make_scoring, soft_targets, supervised_loss

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(5, CLASSES)).astype(np.float32)
LABELS = np.array([0, 3, 6, 1, 1], np.int32)
WEIGHTS = np.array([1, 1, 0, 1, 1], np.float32)


def test_losses_by_hand():
    batch = {"labels": LABELS, "other_labels": LABELS[::-1], "shares": np.full(5, 0.7, np.float32)}
    targets = np.asarray(soft_targets(batch, CLASSES, smoothing=0.1))
    expected = np.full((5, CLASSES), 0.1 / CLASSES)
    for row, (own, other) in enumerate(zip(LABELS, LABELS[::-1], strict=True)):
        expected[row, own] += 0.9 * 0.7
        expected[row, other] += 0.9 * 0.3
    np.testing.assert_allclose(targets, expected, rtol=1e-5)
    logits = LOGITS.astype(np.float64)
    log_softmax = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    sigmoid = 1 / (1 + np.exp(-logits))
    by_hand = {
        "softmax": -(expected * log_softmax).sum(axis=1),
        "sigmoid": -(expected * np.log(sigmoid) + (1 - expected) * np.log(1 - sigmoid)).sum(axis=1),
    }
    for kind, losses in by_hand.items():
        total, count = classification_loss(jnp.asarray(LOGITS), jnp.asarray(targets), jnp.asarray(WEIGHTS), kind)
        assert float(count) == 4
        np.testing.assert_allclose(total, (losses * WEIGHTS).sum(), rtol=1e-5)


def test_the_right_class_among_the_first():
    logits = np.concatenate([LOGITS, np.zeros((2, CLASSES), np.float32)])  # of equal ones the lower classes come first
    labels, weights = np.append(LABELS, [2, 3]).astype(np.int32), np.append(WEIGHTS, [1, 1]).astype(np.float32)
    order = np.argsort(-logits, axis=1, kind="stable")
    for places in range(1, CLASSES + 1):
        right = sum(w for row, label, w in zip(order, labels, weights, strict=True) if label in row[:places])
        found = top_accuracy(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(weights), places)
        assert (float(found[0]), float(found[1])) == (right, 6)
    first = top_accuracy(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(weights), 1)
    assert first == accuracy(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(weights))


def numbered_batch(rows=8, size=6):
    """Images that are their row's number in every pixel; so are their labels."""
    numbers = np.arange(rows)
    images = np.broadcast_to(numbers[:, None, None, None], (rows, size, size, 1)).astype(np.float32)
    return {"images": images, "labels": numbers.astype(np.int32), "weights": {"classes": np.ones(rows, np.float32)}}


@functools.cache
def compiled_mixing(mixup, cutmix):
    mixing = make_mixing(mixup, cutmix)
    assert mixing is not None
    lowered: Any = jax.jit(mixing).lower(numbered_batch(), jax.random.key(0))
    return lowered.compile()


def mixed(mixup, cutmix, seed, batch=None):
    batch = numbered_batch() if batch is None else batch
    return jax.device_get(compiled_mixing(mixup, cutmix)(batch, jax.random.key(seed)))


def test_labels_go_with_the_pixels():
    """What an image has of its own and of the other is what the label has of both; partners are of the whole batch."""
    fading, pasting = 0, 0
    for seed in range(12):
        found = mixed(0.8, 1.0, seed)
        own, other, shares = found["labels"], found["other_labels"], found["shares"]
        np.testing.assert_array_equal(other, np.roll(np.arange(8), 1))
        np.testing.assert_allclose(found["images"].mean(axis=(1, 2, 3)), shares * own + (1 - shares) * other, atol=1e-5)
        only_two = all(set(np.unique(image)) <= {a, b} for image, a, b in zip(found["images"], own, other, strict=True))
        pasting += only_two
        fading += not only_two and len(np.unique(found["images"][3])) == 1
        assert np.ptp(shares) < 1e-6  # one draw serves a batch
    assert fading + pasting == 12
    assert min(fading, pasting) >= 2


def test_mixup_alone_and_cutmix_alone():
    assert make_mixing(0.0, 0.0) is None
    shares = [mixed(0.5, 0.0, seed)["shares"][0] for seed in range(8)]
    assert min(shares) >= 0.5
    assert len(set(shares)) == 8
    pasted = [mixed(0.0, 1.0, seed) for seed in range(64)]
    areas = [1 - one["shares"][0] for one in pasted]
    assert 0.1 < np.mean(areas) < 0.45  # a half, less what the borders cut off
    for one in pasted:
        box = one["images"][3, :, :, 0] != 3
        np.testing.assert_array_equal(box, box.any(axis=1)[:, None] & box.any(axis=0)[None, :])


def test_an_image_that_counts_for_nothing_is_not_mixed_in():
    batch = numbered_batch()
    batch["weights"]["classes"][2] = 0
    found = mixed(0.5, 0.0, 0, batch)
    np.testing.assert_array_equal(found["images"][3], batch["images"][3])
    assert found["shares"][3] == 1
    assert found["shares"][4] < 1


def test_accuracy_of_mixed_images_is_that_of_the_larger_share():
    vit, params, batch = model(), random_params(), host_batch(0)
    loss = jax.jit(supervised_loss(vit, PLAIN, train=True))
    alone = loss(params, batch, jax.random.key(0))[1]["accuracy"]
    rows = len(batch["labels"])
    swapped = batch | {"labels": np.roll(batch["labels"], 1), "other_labels": batch["labels"]}
    swapped["shares"] = np.full(rows, 0.1, np.float32)
    assert loss(params, swapped, jax.random.key(0))[1]["accuracy"] == alone


def test_rows_without_weight_change_nothing():
    """Neither loss nor scores nor the matrix of classes: so a set of images need not divide into batches."""
    vit, params, batch = model(), random_params(), host_batch(0)
    batch["weights"]["classes"][20:] = 0
    other = batch | {"images": batch["images"].copy(), "labels": batch["labels"].copy()}
    other["images"][20:], other["labels"][20:] = 7, 0
    score = make_scoring(vit, "softmax", "half")
    for ours, theirs in zip(jax.tree.leaves(score(params, batch)), jax.tree.leaves(score(params, other)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    metrics, confusion = score(params, batch)
    assert float(confusion.sum()) == 20
    assert float(jnp.trace(confusion)) == float(metrics["accuracy"][0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_smoothing": 1.0}, "--label_smoothing=1.0"),
        ({"mixup": -0.1}, "--mixup=-0.1"),
        ({"classes": 1}, "--classes=1"),
    ],
)
def test_impossible_settings(changes, message):
    with pytest.raises(UserError, match=message):
        SupervisionConfig(**changes)
