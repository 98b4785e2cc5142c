"""Features of images are the same on every mesh, and the judges find what is there to be found."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.sharding import parse_mesh, tree_shardings
from tests.tiny_training import MESHES, mesh_of
from vit_jax.config import VitConfig
from vit_jax.features import extract_features, linear_probe, make_extractor, nearest_neighbours
from vit_jax.model import Vit

CONFIG = VitConfig(width=16, depth=1, heads=4, mlp_width=32, image_size="8", patch_size=4, channels=1, dtype="float32")
COUNT = 21  # no multiple of the batch


@dataclasses.dataclass(frozen=True)
class Squares:
    """Images of one shade each, of a class of their own."""

    def __len__(self):
        return COUNT

    def example(self, epoch, index):
        pixels = np.full((8, 8, 1), index / COUNT, np.float32)
        return {"images": pixels, "labels": np.int32(index), "weights": {"classes": np.float32(1)}}


def random_params():
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(Vit(CONFIG).init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]
    return jax.tree.map(lambda leaf: random.normal(scale=0.3, size=leaf.shape).astype(np.float32), shapes)


def features_on(mesh):
    params = jax.device_put(random_params(), tree_shardings(random_params(), mesh))
    return extract_features(make_extractor(CONFIG, "half"), params, Squares(), mesh, batch_size=8)


def test_every_image_once_on_every_mesh():
    expected, labels = features_on(mesh_of(MESHES[0]))
    np.testing.assert_array_equal(labels, np.arange(COUNT))
    assert len(np.unique(expected.round(4), axis=0)) == COUNT
    for mesh in ("data:8", "data:2,fsdp:2,tensor:2"):
        features, labels = features_on(parse_mesh(mesh))
        np.testing.assert_array_equal(labels, np.arange(COUNT))
        np.testing.assert_allclose(features, expected, atol=1e-5)


@pytest.mark.parametrize("judge", [nearest_neighbours, linear_probe])
def test_judges(judge):
    random = np.random.default_rng(0)
    centres = random.normal(size=(3, 8))
    labels = np.arange(90, dtype=np.int32) % 3
    near = (centres[labels] + 0.05 * random.normal(size=(90, 8))).astype(np.float32)
    noise = random.normal(size=(90, 8)).astype(np.float32)
    assert judge(near[:60], labels[:60], near[60:], labels[60:]) == 1.0
    assert judge(noise[:60], labels[:60], noise[60:], labels[60:]) < 0.7


def test_neighbours_vote_by_their_cosine():
    """Two near neighbours of a class outvote eighteen far ones of another; lengths do not matter."""
    near, far = np.array([[1.0, 0.05]] * 2) * 9, np.array([[0.3, 1.0]] * 18)
    train = np.concatenate([near, far]).astype(np.float32)
    labels = np.repeat([0, 1], (2, 18)).astype(np.int32)
    test = np.array([[0.1, 0.0]], np.float32)
    assert nearest_neighbours(train, labels, test, np.array([0], np.int32)) == 1.0
