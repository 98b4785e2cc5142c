"""Features of images, and how well simple judges tell the classes apart by them, without any fine-tuning.

Axes: B images of a batch, H x W pixels, C channels, N images to learn from, M images to score on, D width.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, Int32, PyTree
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from core_jax.data import Examples, evaluation_batches
from vit_jax.config import VitConfig
from vit_jax.images_config import Normalization
from vit_jax.model import Vit
from vit_jax.normalization import Pixels, normalised

TEMPERATURE = 0.07  # of the votes of neighbours

Extractor = Callable[[PyTree, Pixels], Float[Array, "B D"]]
Features = Float32[np.ndarray, "N D"]
Labels = Int32[np.ndarray, " N"]


def make_extractor(config: VitConfig, normalization: Normalization) -> Extractor:
    """Compiled (parameters of `Vit`, images) -> what stands for each image, in float32."""
    model = Vit(config)

    @jax.jit
    def extract(params: PyTree, images: Pixels) -> Float[Array, "B D"]:
        out: Any = model.apply({"params": params}, normalised(images, normalization, config.channels))
        return out[1].astype("float32")

    return extract


def extract_features(
    extract: Extractor, params: PyTree, examples: Examples, mesh: Mesh, batch_size: int
) -> tuple[Features, Labels]:
    """The features and the class of every image, each once and in their order.

    Args:
      extract: from `make_extractor`.
      params: of `Vit`, on the mesh.
      examples: images without random changes.
      mesh: where it is computed; of one process.
      batch_size: images of a batch; the last one is filled up, and what fills it is left out.
    """
    features, labels = [], []
    with jax.set_mesh(mesh):
        for batch in evaluation_batches(examples, mesh, batch_size=batch_size):
            found = jax.device_get((extract(params, batch["images"]), batch["labels"], batch["weights"]["classes"]))
            counts = found[2] > 0
            features.append(found[0][counts])
            labels.append(found[1][counts].astype(np.int32))
    return np.concatenate(features), np.concatenate(labels)


def nearest_neighbours(
    train: Features,
    train_labels: Labels,
    test: Float32[np.ndarray, "M D"],
    test_labels: Int32[np.ndarray, " M"],
    neighbours: int = 20,
) -> float:
    """Accuracy of the vote of the nearest images to train on, weighted by exp(cosine / 0.07).

    Source: Wu et al. 2018, section 3.4, https://arxiv.org/abs/1805.01978; Caron et al. 2021 (DINO), appendix F
    """
    weigh: Any = lambda distances: np.exp((1 - distances) / TEMPERATURE)  # noqa: E731
    votes = KNeighborsClassifier(
        min(neighbours, len(train)),
        metric="cosine",
        algorithm="brute",
        weights=weigh,
    )
    return float(votes.fit(train, train_labels).score(test, test_labels))


def linear_probe(
    train: Features,
    train_labels: Labels,
    test: Float32[np.ndarray, "M D"],
    test_labels: Int32[np.ndarray, " M"],
    strength: float = 1.0,
) -> float:
    """Accuracy of a logistic regression on standardised features.

    Args:
      train, train_labels: to fit it to.
      test, test_labels: to score it on.
      strength: inverse of its L2 penalty, C of scikit-learn.
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
    return float(probe.fit(train, train_labels).score(test, test_labels))
