"""The benchmark of image reading: both sides give the same images."""

import json
import pathlib

import numpy as np
import pytest

from core_jax.errors import UserError
from experiments.benchmark import images
from experiments.benchmark.images import ImagesBenchmark, write_photos

SMALL = ["--photos=4", "--photo_size=60x50", "--side=32", "--batch_size=2", "--rounds=2"]


def test_both_sides_read_the_same(tmp_path):
    pytest.importorskip("torch")
    flags = ImagesBenchmark(photos=4, photo_size="60x50", side=32, batch_size=4, rounds=1)
    rates, difference = images.measure(str(tmp_path), write_photos(str(tmp_path), flags), flags)
    assert difference < 1e-6  # no part is twice as large as the view
    assert set(rates) == {"ours", "torch"}
    assert images.main([*SMALL, f"--output={tmp_path}/figures.json"]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert {len(found) for found in figures["images_per_core_second"].values()} == {2}
    assert figures["photo_size"] == "60x50"


def test_photos_are_the_same_every_time(tmp_path):
    flags = ImagesBenchmark(photos=3, photo_size="20x10", batch_size=1)
    first, second = (write_photos(str(tmp_path / name), flags) for name in "ab")
    contents = [[pathlib.Path(file).read_bytes() for file in files] for files in (first, second)]
    assert contents[0] == contents[1]
    assert len(set(contents[0])) == 3


def test_ours_can_be_measured_alone():
    assert images.main([*SMALL, "--peer=none"]) == 0


def test_sides_that_differ_give_no_ratio(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(images, "measure", lambda folder, files, flags: ({"ours": [1.0]}, np.inf))
    assert images.main(SMALL) == 1


@pytest.mark.parametrize("settings", [{"photo_size": "500"}, {"photos": 3}, {"side": 0}, {"peer": "none of them"}])
def test_settings_that_make_no_sense(settings):
    with pytest.raises(UserError, match=f"--{next(iter(settings))}="):
        ImagesBenchmark(**settings)
