"""Beside the peer library: every head's loss and gradient from the same weights, and twenty steps of AdamW."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.labelled_rows import LabelledTexts, pack_texts
from bert_jax.labelling import initial_label_params, labelling_loss
from bert_jax.peer_names import our_path
from bert_jax.weights import write_hf
from core_jax.config import OptimizerConfig
from core_jax.losses import cross_entropy
from core_jax.optimizers import decays, make_optimizer
from core_jax.peer_names import from_peer
from core_jax.sharding import by_path, path_name
from core_jax.train import State, make_step
from tests.labelled_words import CLASSES, HEADS, LENGTH, TAGS, examples, model, tokenizer

ARCHITECTURES = {
    "classification": ("BertForSequenceClassification", CLASSES),
    "regression": ("BertForSequenceClassification", ["number"]),
    "token": ("BertForTokenClassification", TAGS),
    "span": ("BertForQuestionAnswering", None),
    "choice": ("BertForMultipleChoice", None),
}
STEPS, BATCH = 20, 6
# As the peer's Trainer: AdamW with bias correction and clipping, linear to 0.
OPTIMIZER = OptimizerConfig(learning_rate=3e-3, warmup_steps=2, weight_decay=0.01, epsilon=1e-6)


def random_label_params(head):
    """None is 0 or 1, so that no term of the model can go missing unnoticed."""
    random = np.random.RandomState(0)
    shapes = jax.eval_shape(initial_label_params(model(head)), jax.random.key(0))

    def draw(path, leaf):
        value = 0.2 * random.standard_normal(leaf.shape)
        return (value + 1 if path_name(path).endswith("scale") else value).astype(np.float32)

    return jax.tree.map_with_path(draw, shapes)


def open_peer(head, params, folder):
    transformers = pytest.importorskip("transformers")
    architecture, labels = ARCHITECTURES[head]
    write_hf(folder, model(head).config, tokenizer(), params, architecture, labels)
    kind = getattr(transformers, architecture)
    return kind.from_pretrained(folder, attn_implementation="eager", dtype="float32").eval()


def peer_loss(peer, head, drawn) -> Any:
    """The mean loss of a batch. Spans are asked text by text: the peer lets an answer stand in padding, we do not."""
    inputs = peer_inputs(examples(head).texts, drawn)
    if head != "span":
        return peer(**inputs).loss
    losses: list[Any] = []
    for row, mask in enumerate(inputs["attention_mask"]):
        one = {name: value[row : row + 1] for name, value in inputs.items()}
        losses.append(peer(**{k: v if v.ndim == 1 else v[:, : int(mask.sum())] for k, v in one.items()}).loss)
    return sum(losses[1:], losses[0]) / len(losses)


def peer_inputs(data: LabelledTexts, drawn: np.ndarray) -> dict:
    """The batch as the peer wants it: a text in a row, padded."""
    import torch  # pyright: ignore[reportMissingImports]

    texts = data.members(drawn)
    rows = {
        name: np.zeros((len(texts), LENGTH), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")
    }
    for row, text in enumerate(texts):
        length = len(data.tokens[text])
        rows["input_ids"][row, :length], rows["attention_mask"][row, :length] = data.tokens[text], 1
        rows["token_type_ids"][row, data.first[text] : length] = 1
    labels: Any = np.array([data.labels[text] for text in texts]) if data.head != "token" else None
    if data.head == "token":
        labels = np.full((len(texts), LENGTH), -100, np.int64)
        for row, text in enumerate(texts):
            own = np.array(data.labels[text])
            labels[row, : len(own)] = np.where(own < 0, -100, own)
    if data.head == "choice":
        size = data.texts_per_example
        rows = {name: value.reshape(-1, size, LENGTH) for name, value in rows.items()}
        labels = labels[::size]
    rows |= (
        {"start_positions": labels[:, 0], "end_positions": labels[:, 1]} if data.head == "span" else {"labels": labels}
    )
    return {
        name: torch.tensor(value.astype(np.float32 if value.dtype == np.float64 else np.int64))
        for name, value in rows.items()
    }


@functools.cache
def packed(head, step=0):
    data = examples(head).texts
    drawn = np.random.default_rng(step).permutation(len(data))[:BATCH]
    return drawn, pack_texts(data, drawn, LENGTH, 1)


@pytest.mark.parametrize("head", HEADS)
def test_loss_and_gradient_of_every_head(head, tmp_path):
    params = random_label_params(head)
    peer = open_peer(head, params, tmp_path / "peer")
    drawn, batch = packed(head)
    expected = peer_loss(peer, head, drawn)
    expected.backward()
    loss: Any = jax.jit(jax.value_and_grad(labelling_loss(model(head), train=False), has_aux=True))
    (ours, _), gradients = loss(params, batch, jax.random.key(0))
    np.testing.assert_allclose(ours, expected.item(), rtol=1e-5)
    found, theirs = by_path(gradients), {our_path(name): leaf.grad for name, leaf in peer.named_parameters()}
    assert found.keys() == theirs.keys()
    for path, gradient in found.items():
        wanted = from_peer(path, theirs[path].numpy(), gradient.shape)
        np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=2e-6, err_msg=path)


@pytest.mark.parametrize("head", HEADS)
def test_twenty_steps_of_adamw(head, tmp_path):
    params = random_label_params(head)
    peer = open_peer(head, params, tmp_path / "peer")
    import torch  # pyright: ignore[reportMissingImports]

    transformation = make_optimizer(OPTIMIZER, STEPS)
    step: Any = jax.jit(make_step(labelling_loss(model(head), train=False), transformation))
    state: Any = State(jax.numpy.zeros((), jax.numpy.int32), params, transformation.init(params), jax.random.key(0))
    decayed = by_path(decays(params))
    groups = [
        {
            "params": [leaf for name, leaf in peer.named_parameters() if decayed[our_path(name) or ""] == on],
            "weight_decay": rate,
        }
        for on, rate in ((True, OPTIMIZER.weight_decay), (False, 0.0))
    ]
    adam = torch.optim.AdamW(groups, OPTIMIZER.learning_rate, (OPTIMIZER.beta1, OPTIMIZER.beta2), OPTIMIZER.epsilon)
    rate = torch.optim.lr_scheduler.LambdaLR(adam, lambda n: min(n / 2, (STEPS - n) / (STEPS - 2)))
    ours, theirs = [], []
    for number in range(STEPS):
        drawn, batch = packed(head, number)
        state, metrics = step(state, batch)
        ours.append(float(metrics["loss"][0] / metrics["loss"][1]))
        loss = peer_loss(peer, head, drawn)
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), OPTIMIZER.clip_norm)
        adam.step()
        rate.step()
        theirs.append(loss.item())
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert max(abs(first - last) for first, last in itertools.pairwise(ours)) > 0.01  # it moved


def test_a_smoothed_loss_is_the_peers():
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(7, 5)).astype(np.float32), random.integers(0, 5, 7)
    total, count = cross_entropy(jnp.array(logits), jnp.array(labels), jnp.ones(7), smoothing=0.2)
    wanted = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels), label_smoothing=0.2)
    np.testing.assert_allclose(total / count, wanted.item(), rtol=1e-6)


def test_models_of_one_size_differ_in_their_heads_alone():
    names = {head: set(by_path(random_label_params(head))) for head in HEADS}
    assert names["classification"] == names["regression"] == names["choice"]
    assert all(any("pooler" in path for path in names[head]) == (head not in ("token", "span")) for head in HEADS)
