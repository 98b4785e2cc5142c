"""experiments.glue and known tasks, on datasets with the features of the real ones: one table, every recipe."""

import json

import pytest

from bert_jax.known_tasks import KNOWN_TASKS
from core_jax.errors import UserError
from experiments import finetune, glue
from tests.labelled_words import records
from tests.small_datasets import write_rows
from tests.test_known_tasks import builder_of
from tests.tiny_tuning import FIRST_WORDS, summary, write_start


def write_task(name, folder, count):
    """A dataset of TFDS for a known task; the first word of a text tells its class."""
    task = KNOWN_TASKS[name]
    builder = builder_of(task, folder)
    features = builder.info.features

    def row(number, record):
        label, word = number % 2, list(FIRST_WORDS.values())[number % 2]
        texts = dict.fromkeys(task.text_columns, f"{word} {record['text']}")
        return dict.fromkeys(features, number) | texts | {task.label_column: label}

    found = [row(number, record) for number, record in enumerate(records("classification", count))]
    splits = dict.fromkeys((task.train_split, *task.validation_splits), found[:32])
    write_rows(builder, splits | {task.train_split: found})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("glue")
    write_start(folder / "start", maximum_positions=128)
    for name in ("glue/sst2", "glue/mnli"):
        write_task(name, folder / "data", 64)
    return folder


@pytest.mark.slow
def test_two_tasks_and_their_table(place, tmp_path, capsys):
    arguments = [f"--init=hf:{place}/start", f"--data_dir={place}/data", "--mesh=data:1", f"--workdir={tmp_path}"]
    assert glue.main([*arguments, "--tasks=sst2,mnli"]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "92.23 % ± 0.57 %" in output  # what was published of SST-2
    config = json.loads((tmp_path / "sst2" / "config.json").read_text())
    assert (config["labels"]["text_column"], config["tuning"]["epochs"]) == ("sentence", 3.0)
    assert config["optimizer"]["learning_rate"] == 2e-5
    assert summary(tmp_path / "sst2")["validation_examples"] == 32
    found = summary(tmp_path / "mnli")
    # Both validation sets hold the same texts here.
    assert found["others"]["validation_mismatched"]["accuracy"] == found["accuracy"]


def test_all_datasets_that_are_missing_are_named_at_once(place, tmp_path):
    arguments = [f"--init=hf:{place}/start", f"--data_dir={place}/data", f"--workdir={tmp_path}/runs"]
    with pytest.raises(UserError, match=r"(?s)glue/cola.*glue/rte"):
        glue.main([*arguments, "--tasks=cola,sst2,rte"])
    assert not (tmp_path / "runs").exists()


def test_flags_change_the_recipe_of_a_known_task():
    found = finetune.defaults(["--task=squad"])
    assert (found.labels.second_text_column, found.labels.sequence_length, found.tuning.epochs) == (
        "question",
        384,
        2.0,
    )
    assert finetune.defaults(["--task", "glue/stsb"]).labels.data == "tfds:glue/stsb"
    assert finetune.defaults(["--task=classification"]) == finetune.Finetune()
