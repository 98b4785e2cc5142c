"""The objectives and outputs of labelled tasks: pure functions of (params, batch, key).

Axes: B rows, T positions, S texts of a packed row, C classes, N groups of choices.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, PyTree

from bert_jax.gpt_for_labels import GptForLabels
from bert_jax.model import BertForLabels
from core_jax.losses import Ratio, cross_entropy, objective, squared_error
from core_jax.metrics import accuracy
from core_jax.train import Loss, Metrics

ModelForLabels = BertForLabels | GptForLabels
INPUTS = ("tokens", "segments", "types", "positions", "cls_positions")
NOWHERE = -1e9  # logit of a position that belongs to another text


def initial_label_params(model: ModelForLabels) -> Callable[[Key[Array, ""]], PyTree]:
    """key -> fresh parameters of a model."""

    def init(key: Key[Array, ""]) -> PyTree:
        nothing = jnp.zeros((1, 8), jnp.int32)
        return model.init(key, nothing, nothing, nothing)["params"]

    return init


def span_logits(logits: Float[Array, "B T 2"], batch: dict[str, Any]) -> Float[Array, "B S 2 T"]:
    """Of every text of packed rows, the logits of its first and last token at each position of its own row."""
    texts = jnp.arange(batch["cls_positions"].shape[1], dtype=jnp.int32)[None, :, None] + 1
    own: Bool[Array, "B S T"] = batch["segments"][:, None] == texts
    return jnp.where(own[:, :, None], jnp.swapaxes(logits, 1, 2)[:, None].astype(jnp.float32), NOWHERE)


def choice_logits(logits: Float[Array, "B S 1"], batch: dict[str, Any]) -> Float[Array, "N C"]:
    """The logits of each group of choices, wherever they stand in the packed rows."""
    return jnp.take(logits.ravel(), batch["choices"])


def label_terms(
    model: ModelForLabels, logits: Float[Array, "B _ C"], batch: dict[str, Any], smoothing: float
) -> tuple[dict[str, Ratio], Metrics]:
    """The terms of the loss, and what else is measured."""
    labels, weights = batch["labels"], batch["weights"]
    if model.head == "regression":
        return {"label": squared_error(logits[..., 0], labels, weights["label"])}, {}
    if model.head == "span":
        both = span_logits(logits, batch)
        # The mean of two losses, each over all texts.
        terms = {
            name: cross_entropy(both[:, :, i], labels[..., i], weights[name])
            for i, name in enumerate(("first", "last"))
        }
        right = jnp.all(jnp.argmax(both, axis=-1) == labels, axis=-1)
        count = jnp.sum(weights["first"])
        scored = {"exact_spans": (jnp.sum(right * weights["first"]), count)}
        return {name: (0.5 * total, number) for name, (total, number) in terms.items()}, scored
    if model.head == "choice":
        logits = choice_logits(logits, batch)
    counted = (weights["label"] > 0).astype(jnp.float32)  # a class may weigh more in the loss, but not as an answer
    return (
        {"label": cross_entropy(logits, labels, weights["label"], smoothing=smoothing)},
        {"accuracy": accuracy(logits, labels, counted)},
    )


def labelling_loss(model: ModelForLabels, *, train: bool, smoothing: float = 0.0) -> Loss:
    """The loss of a labelled task.

    Args:
      model: whose parameters are trained.
      train: whether dropout is on.
      smoothing: of the labels, where they are classes.
    Returns:
      loss(params, batch, key); a batch is of `core_jax`'s packed rows with "labels" and "weights":
        classification: labels Int[B, S]; regression: Float[B, S]; token: Int[B, T]; weights["label"] of that shape.
        span: labels Int[B, S, 2], the first and last token; weights["first"] and ["last"], [B, S].
        choice: "choices" Int[N, C], the places of each group's texts in the flattened [B, S]; labels Int[N].
    Source: Devlin et al. 2018, section 4.
    """

    def loss(params: PyTree, batch: dict[str, Any], key: Key[Array, ""]) -> tuple[Float[Array, ""], Metrics]:
        inputs = (batch[name] for name in INPUTS)
        logits: Any = model.apply({"params": params}, *inputs, train=train, rngs={"dropout": key})
        terms, metrics = label_terms(model, logits, batch, smoothing)
        useful = jnp.sum(batch["segments"] > 0, dtype=jnp.float32)
        metrics = metrics | {"useful_positions": (useful, jnp.float32(batch["segments"].size))}
        return objective(terms, batch.get("totals")), metrics

    return loss


def make_answers(model: ModelForLabels) -> Callable[[PyTree, dict[str, Any]], tuple[Float[Array, "..."], Metrics]]:
    """Compiled (params, batch) -> what the model says, and (sum, count) of each term of its loss, without smoothing.

    Returns:
      In float32: logits [B, S, C] of texts, [B, T, C] of tokens, [B, S, 2, T] of spans, or scores [B, S, 1] of choices.
    """

    @jax.jit
    def answer(params: PyTree, batch: dict[str, Any]) -> tuple[Float[Array, "..."], Metrics]:
        logits: Any = model.apply({"params": params}, *(batch[name] for name in INPUTS))
        terms, _ = label_terms(model, logits, batch, 0.0)
        return span_logits(logits, batch) if model.head == "span" else logits.astype(jnp.float32), terms

    return answer
