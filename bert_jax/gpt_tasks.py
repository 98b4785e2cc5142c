"""GPT's objective: pure functions of (params, batch, key)."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from bert_jax.gpt import Gpt
from bert_jax.gpt_config import GptConfig
from core_jax.flops import TRAINING, Count, for_each, stack_flops
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
            **_work(model.config, batch),
        }
        return objective({"next": metrics["next_loss"]}, batch.get("totals")), metrics

    return loss


def step_flops(config: GptConfig, tokens: Count, seen: Count) -> Count:
    """Operations of the matrix products of a step, forward and backward, without remat.

    Args:
      config: of the model.
      tokens: positions that are computed, each of which predicts what follows.
      seen: positions that each of them looks at, added up.
    """
    return TRAINING * (stack_flops(config, tokens, seen) + for_each(tokens, 2 * config.width * config.vocab_size))


def whole_flops(config: GptConfig, batch: dict[str, Any]) -> int:
    """Operations of a step on rows, or their shapes, that are one text each and full."""
    rows, length = batch["segments"].shape
    return int(step_flops(config, rows * length, rows * length * (length + 1) // 2))


def _work(config: GptConfig, batch: dict[str, Any]) -> Metrics:
    """How much of a batch is no padding, in positions and in operations."""
    segments = batch["segments"]
    useful = jnp.sum(segments > 0, dtype=jnp.float32)
    seen = jnp.sum(jnp.where(segments > 0, batch["positions"] + 1, 0), axis=1)
    needed = step_flops(config, useful, jnp.sum(seen, dtype=jnp.float32))
    return {
        "useful_positions": (useful, jnp.float32(segments.size)),
        "useful_flops": (jnp.asarray(needed), jnp.float32(whole_flops(config, batch))),
    }
