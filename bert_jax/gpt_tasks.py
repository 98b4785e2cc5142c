"""GPT's objective: pure functions of (params, batch, key)."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from bert_jax.gpt import Gpt
from core_jax.losses import cross_entropy, objective
from core_jax.metrics import accuracy
from core_jax.train import Loss, Metrics


def initial_params(model: Gpt) -> Callable[[Key[Array, ""]], PyTree]:
    """key -> fresh parameters of a model."""

    def init(key: Key[Array, ""]) -> PyTree:
        return model.init(key, jnp.zeros((1, min(8, model.config.maximum_positions)), jnp.int32))["params"]

    return init


def next_token_loss(model: Gpt, *, train: bool) -> Loss:
    """Prediction of the next token.

    Args:
      model: whose parameters are trained.
      train: whether dropout is on.
    Returns:
      loss(params, batch, key); the scalar is the mean over all tokens that are predicted. A batch has tokens, segments
      and positions as `Gpt` takes them, the token that follows each as `labels`, and what that counts as
      `weights["next"]`, each [B, T].
    Source: Radford et al. 2018, eq. 1, https://openai.com/index/language-unsupervised
    """

    def loss(params: PyTree, batch: dict[str, Any], key: Key[Array, ""]) -> tuple[Float[Array, ""], Metrics]:
        logits: Any = model.apply(
            {"params": params},
            batch["tokens"],
            batch["segments"],
            batch["positions"],
            train=train,
            rngs={"dropout": key},
        )
        weights = batch["weights"]["next"]
        metrics = {
            "next_loss": cross_entropy(logits, batch["labels"], weights),
            "next_accuracy": accuracy(logits, batch["labels"], weights),
        }
        return objective({"next": metrics["next_loss"]}, batch.get("totals")), metrics

    return loss
