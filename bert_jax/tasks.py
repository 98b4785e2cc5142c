"""BERT's objectives: pure functions of (params, batch, key)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int64, Key, PyTree

from bert_jax.model import BertForPretraining
from bert_jax.model_flops import useful_flops
from core_jax.losses import cross_entropy, objective
from core_jax.metrics import accuracy
from core_jax.train import Loss, Metrics, State, compile_step, make_step

INPUTS = ("tokens", "segments", "types", "mlm_positions")
PACKED_INPUTS = ("positions", "cls_positions")  # where a row holds several pairs


def initial_params(model: BertForPretraining) -> Callable[[Key[Array, ""]], PyTree]:
    """key -> fresh parameters of a model."""

    def init(key: Key[Array, ""]) -> PyTree:
        nothing = jnp.zeros((1, 8), jnp.int32)
        return model.init(key, *(nothing for _ in INPUTS))["params"]

    return init


def pretraining_loss(model: BertForPretraining, *, train: bool, next_sentence_weight: float = 1.0) -> Loss:
    """Masked language modelling plus next sentence prediction, as one task.

    Args:
      model: whose parameters are trained.
      train: whether dropout is on.
      next_sentence_weight: of the second task in the sum.
    Returns:
      loss(params, batch, key); the scalar is the mean over all predicted tokens plus the weighted mean over all pairs;
      the metrics have both unweighted. A batch is of `PretrainingExamples` or of `PackedPairs`.
    Source: Devlin et al. 2018, appendix A.2.
    """

    def loss(params: PyTree, batch: dict[str, Any], key: Key[Array, ""]) -> tuple[Float[Array, ""], Metrics]:
        packed = {name: batch[name] for name in PACKED_INPUTS if name in batch}
        logits: Any = model.apply(
            {"params": params}, *(batch[name] for name in INPUTS), **packed, train=train, rngs={"dropout": key}
        )
        mlm_logits, nsp_logits = logits
        weights = batch["weights"]
        terms = {
            "mlm": cross_entropy(mlm_logits, batch["mlm_labels"], weights["mlm"]),
            "nsp": cross_entropy(nsp_logits, batch["nsp_labels"], weights["nsp"]),
        }
        useful = jnp.sum(batch["segments"] > 0, dtype=jnp.float32)
        metrics = {
            "mlm_loss": terms["mlm"],
            "nsp_loss": terms["nsp"],
            "mlm_accuracy": accuracy(mlm_logits, batch["mlm_labels"], weights["mlm"]),
            "nsp_accuracy": accuracy(nsp_logits, batch["nsp_labels"], weights["nsp"]),
            "useful_positions": (useful, jnp.float32(batch["segments"].size)),
            "useful_flops": useful_flops(model.config, batch),
        }
        nsp_sum, pairs = terms["nsp"]
        return objective(terms | {"nsp": (next_sentence_weight * nsp_sum, pairs)}, batch.get("totals")), metrics

    return loss


def training_step(
    model: BertForPretraining,
    optimizer: optax.GradientTransformation,
    state: State,
    accumulation_steps: int,
    next_sentence_weight: float = 1.0,
) -> Callable[..., tuple[State, Metrics]]:
    """The jitted step of pretraining: the one that is trained with, and the one that a plan compiles.

    Args:
      model: whose parameters are trained.
      optimizer: of all of them.
      state: shapes that know where they live.
      accumulation_steps: parts that the batch is computed in.
      next_sentence_weight: of next sentence prediction in the loss.
    """
    loss = pretraining_loss(model, train=True, next_sentence_weight=next_sentence_weight)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return compile_step(make_step(loss, optimizer, accumulation_steps), shardings)


def unigram_scores(counts: Int64[np.ndarray, " V"]) -> Callable[[dict[str, Any]], Metrics]:
    """The baseline that knows only how often each piece occurs in the training text.

    Args:
      counts: occurrences of each piece.
    Returns:
      batch -> metrics of always answering with those frequencies, smoothed by one.
    """
    log_frequencies = jnp.asarray(np.log((counts + 1) / (counts + 1).sum()), jnp.float32)
    most_frequent = int(counts.argmax())

    def scores(batch: dict[str, Any]) -> Metrics:
        labels, weights = batch["mlm_labels"], batch["weights"]["mlm"]
        losses = -jnp.take(log_frequencies, labels)
        return {
            "unigram_loss": (jnp.sum(losses * weights), jnp.sum(weights)),
            "unigram_accuracy": (jnp.sum((labels == most_frequent) * weights), jnp.sum(weights)),
        }

    return scores


def make_scoring(
    model: BertForPretraining, counts: Int64[np.ndarray, " V"]
) -> Callable[[PyTree, dict[str, Any]], Metrics]:
    """Compiled (params, batch) -> metrics on held-out text, the baseline's beside the model's."""
    loss, baseline = pretraining_loss(model, train=False), unigram_scores(counts)

    @jax.jit
    def score(params: PyTree, batch: dict[str, Any]) -> Metrics:
        _, metrics = loss(params, batch, jax.random.key(0))
        return metrics | baseline(batch)

    return score
