"""What is learned from recordings: their classes, or the letters that are said. Pure functions of (params, batch, key).

Axes: B recordings, F frames, M mel bands, T positions, N letters, K outputs.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from core_jax.flops import TRAINING, Count, stack_flops
from core_jax.losses import Ratio, cross_entropy, objective
from core_jax.metrics import accuracy
from core_jax.train import Loss, Metrics, State, compile_step, make_step
from vit_jax.audio_encoder import KERNEL, STRIDE, AudioEncoderConfig, positions_of
from vit_jax.audio_labels import AudioForLabels
from vit_jax.ctc import ctc_loss
from vit_jax.log_mel import FRAMES_A_SECOND
from vit_jax.tasks import Scoring, judge_classes


def recording_loss(model: AudioForLabels, *, train: bool, smoothing: float = 0.0) -> Loss:
    """Classes of recordings, or what is said in them, as a task.

    Args:
      model: whose parameters are trained; its head says which of both.
      train: whether dropout is on.
      smoothing: share of each class label that is spread evenly over all.
    Returns:
      loss(params, batch, key); the scalar is the mean over recordings, or over all letters. A batch has spectrograms
      [B, F, M] and frames [B]; labels [B] with weights["classes"] [B], or letters [B, N] with weights["letters"].
    """

    def loss(params: PyTree, batch: dict[str, Any], key: Key[Array, ""]) -> tuple[Float[Array, ""], Metrics]:
        inputs = batch["spectrograms"], batch["frames"]
        logits: Any = model.apply({"params": params}, *inputs, train=train, rngs={"dropout": key})
        metrics = {"useful_seconds": heard_seconds(batch)}
        if model.head == "position":
            terms = {"letters": letters_loss(logits, batch)}
        else:
            labels, weights = batch["labels"], batch["weights"]["classes"]
            terms = {"classes": cross_entropy(logits, labels, weights, smoothing=smoothing if train else 0.0)}
            metrics["accuracy"] = accuracy(logits, labels, weights)
        return objective(terms, batch.get("totals")), metrics

    return loss


def letters_loss(logits: Float[Array, "B T K"], batch: dict[str, Any]) -> Ratio:
    """(nats, letters) of the letters of a batch."""
    return ctc_loss(logits, positions_of(batch["frames"]), batch["labels"], batch["weights"]["letters"])


def training_step(
    model: AudioForLabels,
    smoothing: float,
    optimizer: optax.GradientTransformation,
    state: State,
    accumulation_steps: int,
) -> Callable[..., tuple[State, Metrics]]:
    """The jitted step of training, for a state whose shapes know where they live."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    loss = recording_loss(model, train=True, smoothing=smoothing)
    return compile_step(make_step(loss, optimizer, accumulation_steps), shardings)


def make_class_scoring(model: AudioForLabels) -> Scoring:
    """Compiled (params, batch) -> metrics on held-out recordings, and how often each class was taken for each."""

    @jax.jit
    def score(params: PyTree, batch: dict[str, Any]) -> tuple[Metrics, Float[Array, "K K"]]:
        logits: Any = model.apply({"params": params}, batch["spectrograms"], batch["frames"])
        return judge_classes(logits, batch["labels"], batch["weights"]["classes"], "softmax")

    return score


def make_letters_scoring(model: AudioForLabels) -> Callable[[PyTree, dict[str, Any]], Metrics]:
    """Compiled (params, batch) -> metrics on held-out recordings whose letters are known."""

    @jax.jit
    def score(params: PyTree, batch: dict[str, Any]) -> Metrics:
        logits: Any = model.apply({"params": params}, batch["spectrograms"], batch["frames"])
        return {"loss": letters_loss(logits, batch)}

    return score


def heard_seconds(batch: dict[str, Any]) -> Ratio:
    """(seconds of sound in a batch, seconds of its windows)."""
    rows, frames = batch["spectrograms"].shape[:2]
    heard = jnp.sum(batch["frames"]).astype(jnp.float32) / FRAMES_A_SECOND
    return heard, jnp.float32(rows * frames / FRAMES_A_SECOND)


def encoder_flops(config: AudioEncoderConfig, frames: int) -> Count:
    """Operations of the matrix products of a forward pass over one window, however much of it is silence."""
    positions = frames // STRIDE
    convolutions = 2 * KERNEL * config.width * (frames * config.mel_bands + positions * config.width)
    return convolutions + stack_flops(config, positions, positions * positions)


def step_flops(model: AudioForLabels, batch: dict[str, Any]) -> Count:
    """Operations of the matrix products of a step, forward and backward, without remat, on full windows.

    Args:
      model: whose step it is.
      batch: arrays or shapes.
    """
    rows, frames = batch["spectrograms"].shape[:2]
    places = frames // STRIDE if model.head == "position" else 1
    head = 2 * places * model.config.width * model.outputs
    return TRAINING * rows * (encoder_flops(model.config, frames) + head)


def batch_shapes(rows: int, config: AudioEncoderConfig, letters: int) -> dict[str, Any]:
    """Shapes and dtypes of a batch of so many rows, of classes, or of so many letters where there are any."""

    def shape(*sizes: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *sizes), dtype)

    name, sizes = ("letters", (letters,)) if letters else ("classes", ())
    return {
        "spectrograms": shape(config.frames, config.mel_bands, dtype=jnp.float32),
        "frames": shape(),
        "labels": shape(*sizes),
        "weights": {name: shape(*sizes, dtype=jnp.float32)},
    }
