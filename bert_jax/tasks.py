"""BERT's objectives: pure functions of (params, batch, key)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Int64, Key, PyTree

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
        mlm_logits, nsp_logits = _logits(model, params, batch, key, train=train)
        metrics = _measure(model, mlm_logits, nsp_logits, batch)
        nsp_sum, pairs = metrics["nsp_loss"]
        terms = {"mlm": metrics["mlm_loss"], "nsp": (next_sentence_weight * nsp_sum, pairs)}
        return objective(terms, batch.get("totals")), metrics

    return loss


def _logits(model, params, batch, key, *, train) -> Any:
    packed = {name: batch[name] for name in PACKED_INPUTS if name in batch}
    inputs = (batch[name] for name in INPUTS)
    return model.apply({"params": params}, *inputs, **packed, train=train, rngs={"dropout": key})


def _measure(model, mlm_logits, nsp_logits, batch) -> Metrics:
    weights = batch["weights"]
    useful = jnp.sum(batch["segments"] > 0, dtype=jnp.float32)
    return {
        "mlm_loss": cross_entropy(mlm_logits, batch["mlm_labels"], weights["mlm"]),
        "nsp_loss": cross_entropy(nsp_logits, batch["nsp_labels"], weights["nsp"]),
        "mlm_accuracy": accuracy(mlm_logits, batch["mlm_labels"], weights["mlm"]),
        "nsp_accuracy": accuracy(nsp_logits, batch["nsp_labels"], weights["nsp"]),
        "useful_positions": (useful, jnp.float32(batch["segments"].size)),
        "useful_flops": useful_flops(model.config, batch),
    }


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
) -> Callable[[PyTree, dict[str, Any]], tuple[Metrics, Int[Array, "B P"]]]:
    """The scoring of held-out text.

    Args:
      model: to score.
      counts: occurrences of each piece in the training text.
    Returns:
      Compiled (params, batch) -> metrics, the baseline's beside the model's, and the most probable piece at each
      predicted position.
    """
    baseline = unigram_scores(counts)

    @jax.jit
    def score(params: PyTree, batch: dict[str, Any]) -> tuple[Metrics, Int[Array, "B P"]]:
        mlm_logits, nsp_logits = _logits(model, params, batch, jax.random.key(0), train=False)
        metrics = _measure(model, mlm_logits, nsp_logits, batch)
        return metrics | baseline(batch), jnp.argmax(mlm_logits, axis=-1)

    return score
