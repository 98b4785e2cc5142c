import types
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.text.conll2003.conll2003 import Conll2003
from tensorflow_datasets.text.glue import Glue

from bert_jax.known_tasks import KNOWN_TASKS, PublishedScore
from core_jax.labelled_data import check_records, class_names, read_records
from tests.small_datasets import write_rows

TASKS = list(KNOWN_TASKS.values())
CONLL_TAGS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC")
CLASSES = {
    "glue/cola": ("unacceptable", "acceptable"),
    "glue/sst2": ("negative", "positive"),
    "glue/mrpc": ("not_equivalent", "equivalent"),
    "glue/qqp": ("not_duplicate", "duplicate"),
    "glue/mnli": ("entailment", "neutral", "contradiction"),
    "glue/qnli": ("entailment", "not_entailment"),
    "glue/rte": ("entailment", "not_entailment"),
    "glue/wnli": ("not_entailment", "entailment"),
    "conll2003": CONLL_TAGS,
}


def builder_of(task, data_dir) -> Any:
    """The code of TFDS for a task's dataset."""
    dataset, _, config = task.data.removeprefix("tfds:").partition("/")
    code = {"glue": Glue, "conll2003": Conll2003}.get(dataset) or tfds.builder_cls(dataset)
    # TFDS would look for checksums of downloads beside the code, through a package it forgets to require.
    places = {"name": dataset, "code_path": None, "__module__": code.__module__}
    offline = type(dataset, (code,), places, skip_registration=True)
    return offline(config=config or None, data_dir=str(data_dir), file_format="array_record")


def value_of(feature, text):
    """A value such as a feature wants."""
    if isinstance(feature, tfds.features.Sequence):
        inner = feature.feature
        if isinstance(inner, tfds.features.FeaturesDict):
            return {name: [value_of(part, text)] for name, part in inner.items()}
        return [value_of(inner, text)] * 2
    if isinstance(feature, tfds.features.ClassLabel):
        return feature.names[-1]
    kind = np.dtype(feature.np_dtype)
    return text if kind.kind in "OSU" else kind.type(1)


def split_names(builder, folder):
    """The splits that the code of TFDS would make."""

    def fetched(urls):
        return {name: str(folder) for name in urls} if isinstance(urls, dict) else epath.Path(folder)

    manager = types.SimpleNamespace(download=fetched, download_and_extract=fetched)
    splits = type(builder)._split_generators(builder, manager)
    return set(splits) if isinstance(splits, dict) else {str(split.name) for split in splits}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_tasks_are_read_as_tfds_writes_them(task, tmp_path):
    builder = builder_of(task, tmp_path)
    wanted = [task.train_split, *task.validation_splits]
    assert set(wanted) <= split_names(builder, tmp_path)
    features = builder.info.features
    write_rows(builder, {s: [{name: value_of(features[name], s) for name in features}] for s in wanted})
    columns = [*task.text_columns, task.label_column]
    for split in wanted:
        check_records(task.data, columns, split=split, data_dir=str(tmp_path))
        (record,) = read_records(task.data, columns, split=split, data_dir=str(tmp_path))
        texts = [split, split] if task.head == "token" else split
        assert all(record[name] == texts for name in task.text_columns)
        last = CLASSES[task.name][-1] if task.name in CLASSES else None
        label = {
            "classification": last,
            "regression": 1.0,
            "token": [last, last],
            "span": {"text": [split], "answer_start": [1]},
        }[task.head]
        assert record[task.label_column] == label
    assert class_names(task.data, task.label_column, data_dir=str(tmp_path)) == CLASSES.get(task.name, ())


def test_all_of_glue_is_known():
    without = {"ax", "mnli_matched", "mnli_mismatched"}  # they have nothing to train on
    wanted = {f"glue/{config.name}" for config in Glue.BUILDER_CONFIGS if config.name not in without}
    assert {name for name in KNOWN_TASKS if name.startswith("glue/")} == wanted
    assert set(KNOWN_TASKS) - wanted == {"squad", "squad_v2", "conll2003"}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_recipes_make_sense(task):
    scores = {
        "classification": {"accuracy", "matthews"} | {f"f1/{name}" for name in CLASSES.get(task.name, ())},
        "regression": {"pearson", "spearman"},
        "token": {"f1"},
        "span": {"f1", "exact_match"},
    }[task.head]
    assert task.metric in scores
    assert set(task.published) <= scores
    assert not task.published or task.metric in task.published
    assert all(0 < score.value < 1 and score.source for score in task.published.values())
    # Grids of Devlin et al. 2018, appendix A.3, and one epoch count and batch of their code.
    assert task.learning_rate in (2e-5, 3e-5, 5e-5)
    assert task.batch_size in (12, 16, 32)
    assert 2 <= task.epochs <= 5
    assert len(task.text_columns) in (1, 2)
    assert len(set(task.validation_splits)) == len(task.validation_splits) > 0
    assert task.train_split not in task.validation_splits


def test_published_scores_say_where_they_are_from():
    assert str(PublishedScore(0.9223, "a paper", 0.0057)) == "0.9223 ± 0.0057 (a paper)"
    assert str(PublishedScore(0.8841, "a paper")) == "0.8841 (a paper)"
