"""Several runs of one command: each has its own settings, data and model, and nothing is read twice."""

import functools
import pathlib
import re
from collections import Counter

import pytest

from bert_jax import finetuning
from bert_jax.answers import blind_score
from bert_jax.finetuning_config import BertFinetuning
from bert_jax.labelled_texts import encode_examples
from core_jax.errors import UserError
from core_jax.sharding import parse_mesh
from experiments import finetune, tuning_grid, tuning_material, tuning_results
from experiments.console import StopRequest
from tests.labelled_words import columns, tokenizer
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


@pytest.mark.parametrize(
    ("grid", "name", "values"),
    [
        ("bias_correction:True,False", "optimizer", [True, False]),
        ("warmup_steps:0,10", "optimizer", [0, 10]),
        ("freeze:stem,", "optimizer", ["stem"]),
        ("moment_dtype:bfloat16", "optimizer", ["bfloat16"]),
    ],
)
def test_values_are_read_as_the_command_line_reads_them(grid, name, values):
    field = grid.partition(":")[0]
    runs = tuning_grid.expand(BertFinetuning(), 1, grid, "runs")
    assert [getattr(getattr(config, name), field) for _, _, config in runs] == values


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("bias_correction:maybe", "bias_correction=maybe: expected True or False"),
        ("dtype:float16", "dtype=float16: expected auto, float32 or bfloat16"),
        ("warmup_steps:1.5", "warmup_steps=1.5: expected a whole number"),
        ("lr:fast", "learning_rate=fast: expected a number"),
        ("lr:-1", "--learning_rate=-1.0: expected 0 or more"),
        ("rate:1", "there is no flag --rate"),
        ("task:span,choice", "--task cannot differ"),
        ("mesh:data:1,data:2", "--mesh cannot differ"),
    ],
)
def test_values_that_are_none_are_refused(grid, message):
    with pytest.raises(UserError, match=message):
        list(tuning_grid.expand(BertFinetuning(), 1, grid, "runs"))


def test_a_seed_comes_from_one_flag():
    with pytest.raises(UserError, match=r"--grid=seed:1,2: .*--seeds=2"):
        list(tuning_grid.expand(BertFinetuning(), 2, "seed:1,2", "runs"))


@pytest.mark.parametrize(
    ("scores", "blind", "why"),
    [
        (None, ("accuracy", 0.5), "diverged"),
        ({"accuracy": 1.0}, ("accuracy", 0.9933), ""),
        ({"accuracy": 1.0}, ("accuracy", 1.0), ""),
        ({"accuracy": 0.9934}, ("accuracy", 0.9933), ""),
        ({"accuracy": 0.9933}, ("accuracy", 0.9933), r"no better than a blind guess \(accuracy 99.33 %\)"),
        ({"accuracy": 0.2}, ("accuracy", 0.5), "no better"),
        ({"pearson": 0.1}, ("pearson", 0.0), ""),
        ({"pearson": 0.0}, ("pearson", 0.0), "no better"),
        ({"pearson": float("nan")}, ("pearson", 0.0), "no better"),
        ({"f1": 0.0, "accuracy": 0.8}, ("f1", 0.0), "no better"),
        ({"f1": 0.0, "accuracy": 1.0}, ("f1", 0.0), ""),  # there is no entity, and none was given
        ({"f1": 0.01, "exact_match": 0.0}, ("f1", 0.0), ""),
    ],
)
def test_runs_that_learnt_nothing_have_failed(scores, blind, why):
    found = tuning_results.why_failed(scores, blind)
    assert re.search(why, found)
    assert bool(found) == bool(why)


def test_a_blind_guess_says_the_same_of_every_example():
    def blind(head, records, classes=()):
        texts = encode_examples(
            records, tokenizer(), head=head, columns=columns(head), classes=classes, sequence_length=32
        )
        return blind_score(texts, columns(head), classes)

    words = {"text": ["w1", "w2", "w3", "w4"]}
    assert blind("classification", [{"text": "w1", "second": "", "label": label} for label in "aaab"], "ab") == (
        "accuracy",
        0.75,
    )
    assert blind("token", [words | {"label": ["O", "O", "O", "B-x"]}], ["B-x", "O"]) == ("f1", 0.0)
    assert blind("token", [words | {"label": ["noun", "noun", "noun", "verb"]}], ["noun", "verb"]) == ("f1", 0.75)
    nowhere, there = {"text": [], "answer_start": []}, {"text": ["w1"], "answer_start": [0]}
    question = {"text": "w1 w2", "second": "w3"}
    assert blind("span", [question | {"label": there}] * 2) == ("f1", 0.0)
    assert blind("span", [question | {"label": there}, question | {"label": nowhere}]) == ("f1", 0.5)
    assert blind("regression", [question | {"label": 2.5}]) == ("pearson", 0.0)
    assert blind("choice", [question | {"a": "w1", "b": "w2", "label": 1}]) == ("accuracy", 0.5)
