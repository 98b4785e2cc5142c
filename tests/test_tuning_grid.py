"""Several runs of one command: each has its own settings, data and model, and nothing is read twice."""

import functools
import pathlib
from collections import Counter

import pytest

from bert_jax import finetuning
from core_jax.errors import UserError
from core_jax.sharding import parse_mesh
from experiments import finetune, tuning_grid, tuning_material
from experiments.console import StopRequest
from tests.tiny_tuning import flags, summary, write_records, write_start


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
    """A folder with two starting points and texts."""
    folder = tmp_path_factory.mktemp("grid")
    write_start(folder / "start")
    write_start(folder / "wider", mlp_width=32)
    write_records(folder / "classification.jsonl", "classification")
    return folder


@pytest.mark.parametrize(
    "grid", ["sequence_length:32,8", "class_weights:none,balanced", "init:hf:{0}/start,hf:{0}/wider"]
)
def test_each_run_has_its_own_data_and_model(place, tmp_path, grid):
    assert finetune.main(flags("classification", place, tmp_path, grid=grid.format(place), epochs=1)) == 0
    first, second = (summary(folder) for folder in tmp_path.iterdir() if folder.is_dir())
    assert first["loss"] != second["loss"]


def test_what_runs_have_in_common_is_read_once(place, tmp_path, monkeypatch):
    read = []

    def note(name, original, *arguments, **options):
        read.append(name)
        return original(*arguments, **options)

    for module, name in ((finetuning, "read_sets"), (finetuning, "encode"), (tuning_material, "open_tuning_start")):
        monkeypatch.setattr(module, name, functools.partial(note, name, getattr(module, name)))
    config = finetune.parse_flags(finetune.Finetune, flags("classification", place, tmp_path), "").plain()
    grid = "lr:0.1,0.2;sequence_length:16,32;label_smoothing:0,0.1"
    runs = [one for _, _, one in tuning_grid.expand(config, 3, grid, str(tmp_path))]
    materials = tuning_material.open_materials(runs, parse_mesh("data:1"), StopRequest())
    assert (len(materials), len(set(map(id, materials)))) == (24, 2)
    assert Counter(read) == {"open_tuning_start": 1, "read_sets": 1, "encode": 2 * 2}
    for material, one in zip(materials, runs, strict=True):
        assert max(map(len, material.train.texts.tokens)) <= one.labels.sequence_length


def test_each_run_needs_a_batch_of_its_own_size(place, tmp_path):
    with pytest.raises(UserError, match="gives 36 examples, fewer than --global_batch_size=40"):
        finetune.main(flags("classification", place, tmp_path, grid="batch:8,40"))
