"""ViT's objectives: pure functions of (params, batch, key).

Axes: B images, or rows of S images; K classes.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key, PyTree

from core_jax.embeddings import PackedPatches
from core_jax.losses import Ratio, objective
from core_jax.metrics import accuracy, top_accuracy
from core_jax.train import Loss, Metrics, Preparation, State, compile_step, make_step
from vit_jax.images_config import Normalization
from vit_jax.mixing import make_mixing
from vit_jax.model import VitForClassification
from vit_jax.model_flops import useful_flops
from vit_jax.normalization import normalised_batch, of_bytes
from vit_jax.supervision import SupervisionConfig

PLACES = 5  # of the top-5 accuracy, which means something where there are more classes
Scoring = Callable[[PyTree, dict[str, Any]], tuple[Metrics, Float[Array, "K K"]]]


def initial_params(model: VitForClassification) -> Callable[[Key[Array, ""]], PyTree]:
    """key -> fresh parameters of a model."""
    config = model.config

    def init(key: Key[Array, ""]) -> PyTree:
        return model.init(key, jnp.zeros((1, config.height, config.width_of_image, config.channels)))["params"]

    return init


def images_of(batch: dict[str, Any]) -> Any:
    """What the model reads of a batch that is normalised: its images, or the patches of several in a row."""
    if "patches" not in batch:
        return batch["images"]
    return PackedPatches(**{name: batch[name] for name in PackedPatches._fields})


def soft_targets(batch: dict[str, Any], classes: int, smoothing: float) -> Float[Array, "B *S K"]:
    """What each class's probability should be.

    Args:
      batch: with labels; where images are mixed also with the other labels and the shares of the own.
      classes: how many there are.
      smoothing: share of each label that is spread evenly over all classes.
    """
    targets = jax.nn.one_hot(batch["labels"], classes)
    if "shares" in batch:
        shares = batch["shares"][:, None]
        targets = shares * targets + (1 - shares) * jax.nn.one_hot(batch["other_labels"], classes)
    return (1 - smoothing) * targets + smoothing / classes


def classification_loss(
    logits: Float[Array, "*images K"], targets: Float[Array, "*images K"], weights: Float[Array, "*images"], kind: str
) -> Ratio:
    """(sum of weighted losses in nats, sum of weights), computed in float32.

    Args:
      logits: any float dtype.
      targets: of each class.
      weights: what each image counts.
      kind: "softmax", where one class is right; or "sigmoid", where each is asked for by itself, summed over classes.
    Source: sigmoid cross-entropy for ImageNet from Beyer et al. 2020, section 5, https://arxiv.org/abs/2006.07159
    """
    logits = logits.astype(jnp.float32)
    if kind == "softmax":
        losses = optax.softmax_cross_entropy(logits, targets)
    else:
        losses = jnp.sum(optax.sigmoid_binary_cross_entropy(logits, targets), axis=-1)
    return jnp.sum(losses * weights), jnp.sum(weights)


def supervised_loss(model: VitForClassification, supervision: SupervisionConfig, *, train: bool) -> Loss:
    """Classification as a task.

    Args:
      model: whose parameters are trained.
      supervision: which loss.
      train: whether dropout, stochastic depth and label smoothing are on.
    Returns:
      loss(params, batch, key) of normalised images; the scalar is the mean over all, alone or packed into rows. Of
      mixed images the label that has the larger share counts as the right one in the accuracies.
    """
    smoothing = supervision.label_smoothing if train else 0.0

    def loss(params: PyTree, batch: dict[str, Any], key: Key[Array, ""]) -> tuple[Float[Array, ""], Metrics]:
        logits: Any = model.apply({"params": params}, images_of(batch), train=train, rngs={"dropout": key})
        weights, labels = batch["weights"]["classes"], batch["labels"]
        targets = soft_targets(batch, model.classes, smoothing)
        terms = {"classes": classification_loss(logits, targets, weights, supervision.loss)}
        if "shares" in batch:
            labels = jnp.where(batch["shares"] >= 0.5, labels, batch["other_labels"])
        metrics = {
            "accuracy": accuracy(logits, labels, weights),
            "useful_images": (jnp.sum(weights > 0, dtype=jnp.float32), jnp.float32(weights.size)),
            "useful_flops": useful_flops(model.config, batch, model.classes),
        }
        if "patches" in batch:
            segments = batch["segments"]
            metrics["useful_positions"] = jnp.sum(segments > 0, dtype=jnp.float32), jnp.float32(segments.size)
        if model.classes > PLACES:
            metrics["top5_accuracy"] = top_accuracy(logits, labels, weights, PLACES)
        return objective(terms, batch.get("totals")), metrics

    return loss


def training_step(
    model: VitForClassification,
    supervision: SupervisionConfig,
    normalization: Normalization,
    optimizer: optax.GradientTransformation,
    state: State,
    accumulation_steps: int,
) -> Callable[..., tuple[State, Metrics]]:
    """The jitted step of supervised training: the one that is trained with, and the one that a plan compiles.

    Args:
      model: whose parameters are trained.
      supervision: loss and mixing.
      normalization: of images.
      optimizer: of all of them.
      state: shapes that know where they live.
      accumulation_steps: parts that the batch is computed in; images are mixed across the whole of it before.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    prepare = make_preparation(supervision, normalization, model.config.channels)
    loss = of_bytes(supervised_loss(model, supervision, train=True), normalization, model.config.channels)
    return compile_step(make_step(loss, optimizer, accumulation_steps, prepare), shardings)


def make_preparation(supervision: SupervisionConfig, normalization: Normalization, channels: int) -> Preparation | None:
    """What is done with the whole batch first: its images are normalised and mixed; None where nothing is mixed.

    Args:
      supervision: mixing.
      normalization: of images.
      channels: of them.
    """
    mixing = make_mixing(supervision.mixup, supervision.cutmix)
    if mixing is None:
        return None
    return lambda batch, key: mixing(normalised_batch(batch, normalization, channels), key)


def make_scoring(model: VitForClassification, kind: str, normalization: Normalization) -> Scoring:
    """Compiled (params, batch) -> metrics on held-out images, and how often each class was taken for each.

    Args:
      model: to score.
      kind: of the loss.
      normalization: of images.
    """

    @jax.jit
    def score(params: PyTree, batch: dict[str, Any]) -> tuple[Metrics, Float[Array, "K K"]]:
        images = normalised_batch(batch, normalization, model.config.channels)["images"]
        logits: Any = model.apply({"params": params}, images)
        return judge_classes(logits, batch["labels"], batch["weights"]["classes"], kind)

    return score


def judge_classes(
    logits: Float[Array, "B K"], labels: Int[Array, " B"], weights: Float[Array, " B"], kind: str
) -> tuple[Metrics, Float[Array, "K K"]]:
    """Metrics of held-out examples, and how often each class was taken for each.

    Args:
      logits: of each class.
      labels: the right ones.
      weights: what each example counts.
      kind: of the loss.
    """
    classes = logits.shape[-1]
    targets = jax.nn.one_hot(labels, classes)
    metrics = {
        "loss": classification_loss(logits, targets, weights, kind),
        "accuracy": accuracy(logits, labels, weights),
    }
    if classes > PLACES:
        metrics["top5_accuracy"] = top_accuracy(logits, labels, weights, PLACES)
    given = jax.nn.one_hot(jnp.argmax(logits, axis=-1), classes)
    confusion = jnp.einsum("bk,bl->kl", targets * weights[:, None], given)
    if not jax.sharding.get_abstract_mesh().empty:  # every process reads all of it
        confusion = jax.lax.with_sharding_constraint(confusion, P())
    return metrics, confusion
