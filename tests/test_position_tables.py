"""Position tables for other grids: as the peers interpolate them, and tokens that are no patches left alone."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.errors import UserError
from core_jax.grid_positions import bicubic_weights
from tests.test_weights import assert_same
from tests.vit_peers import random_vit
from vit_jax.config import VitConfig
from vit_jax.position_tables import interpolate, resize_model

GRIDS = [(9, 9), (4, 4), (7, 10), (3, 13)]


def table(grid=(6, 6), prefix=1):
    return np.random.RandomState(0).standard_normal((1, prefix + grid[0] * grid[1], 5)).astype(np.float32)


@pytest.mark.parametrize("method", ["bicubic", "antialiased"])
@pytest.mark.parametrize("wanted", GRIDS)
def test_as_torch_interpolates(method, wanted):
    torch = pytest.importorskip("torch")
    given = table()
    pixels = torch.tensor(given[:, 1:].reshape(1, 6, 6, 5).transpose(0, 3, 1, 2))
    options = {"mode": "bicubic", "align_corners": False, "antialias": method == "antialiased"}
    theirs = torch.nn.functional.interpolate(pixels, size=wanted, **options).numpy()
    ours = interpolate(given, (6, 6), wanted, method)
    np.testing.assert_allclose(ours[:, 1:], theirs.transpose(0, 2, 3, 1).reshape(1, -1, 5), 1e-5, 2e-6)


@pytest.mark.parametrize("method", ["bicubic", "antialiased", "bilinear"])
@pytest.mark.parametrize("wanted", GRIDS)
def test_a_constant_table_stays_constant_and_the_first_row_stays(method, wanted):
    given = np.concatenate([table()[:, :2], np.full((1, 24, 5), 3.0, np.float32)], axis=1)
    found = interpolate(given, (4, 6), wanted, method)
    assert found.shape == (1, 2 + wanted[0] * wanted[1], 5)
    np.testing.assert_array_equal(found[:, :2], given[:, :2])
    np.testing.assert_allclose(found[:, 2:], 3, 1e-5)


def test_bilinear_keeps_corners_and_goes_straight_between():
    plane = lambda rows, columns: np.add.outer(2 * np.linspace(0, 1, rows), np.linspace(0, 1, columns))  # noqa: E731
    given = plane(4, 6).reshape(1, 24, 1).astype(np.float32)
    found = interpolate(given, (4, 6), (7, 11), "bilinear")
    np.testing.assert_allclose(found.reshape(7, 11), plane(7, 11), atol=1e-6)


def test_the_same_grid_changes_no_bit():
    given = table()
    assert interpolate(given, (6, 6), (6, 6)) is given
    np.testing.assert_array_equal(bicubic_weights(jnp.arange(5), jnp.full(5, 5), 5), np.eye(5))


def test_a_model_for_another_size():
    config = VitConfig(width=12, depth=1, heads=3, mlp_width=20, image_size="8", patch_size=4)
    model = random_vit(config, 3)
    resized, params = resize_model(config, model.params, "12x20")
    assert resized == dataclasses.replace(config, image_size="12x20")
    assert params["vit"]["embeddings"]["position"].shape == (1, 16, 12)
    back = params["vit"]["embeddings"] | {"position": model.params["vit"]["embeddings"]["position"]}
    assert_same(params | {"vit": params["vit"] | {"embeddings": back}}, model.params)
    with pytest.raises(UserError, match="use 12 or 16"):
        resize_model(config, model.params, "13")
