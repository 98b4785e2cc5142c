"""experiments.finetune, evaluate and predict as a user types them: they learn, go on, repeat, and name mistakes."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from bert_jax.finetuning import classes_of, encode, open_label_model
from bert_jax.finetuning_config import LabelsConfig
from bert_jax.labelled_rows import pack_texts
from bert_jax.weights import read_hf
from core_jax.errors import UserError
from core_jax.sharding import by_path, parse_mesh
from experiments import convert, evaluate, finetune, predict, tuning
from tests.labelled_words import HEADS, tokenizer
from tests.tiny_tuning import flags, lines, stop_after, summary, write_records, write_start

TIMES = ("useful_tokens_per_second", "steps_per_second")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a starting point, texts of every kind, and a finished run of classification."""
    folder = tmp_path_factory.mktemp("tuning")
    write_start(folder / "start")
    for head in HEADS:
        write_records(folder / f"{head}.jsonl", head)
    write_records(folder / "test.jsonl", "classification", 21, seed=1)
    assert finetune.main(flags("classification", folder, folder / "run", test_data=f"jsonl:{folder}/test.jsonl")) == 0
    return folder


def params_of(workdir):
    model = open_label_model(str(workdir), parse_mesh("data:1"), report=pytest.fail)
    return {path: np.asarray(leaf) for path, leaf in by_path(model.params).items()}


def without_times(found):
    return [{name: value for name, value in line.items() if name not in TIMES} for line in found]


def test_a_run_learns_and_keeps_the_best_epoch(place):
    found, epochs = summary(place / "run"), lines(place / "run", "validation")
    assert len(epochs) == 15
    assert found["accuracy"] > found["baseline"] + 0.2
    assert min(line["loss"] for line in epochs) < 0.8 * epochs[0]["loss"]
    best = max(epochs, key=lambda line: line["accuracy"])
    assert found["best_step"] == best["step"]
    assert {name: found[name] for name in ("loss", "accuracy", "f1")} == {
        name: pytest.approx(best[name], rel=1e-5) for name in ("loss", "accuracy", "f1")
    }
    assert {"precision", "recall", "micro_f1", "matthews", "f1/low", "f1/high"} <= epochs[0].keys()
    assert set(found["by_class"]) == {"low", "high"}
    assert found["others"]["test"].keys() >= {"loss", "accuracy"}
    for name in ("loss.png", "confusion_matrix.png"):
        assert (place / "run" / name).read_bytes().startswith(b"\x89PNG")


def test_evaluate_gives_the_same_scores_on_any_mesh(place, tmp_path, capsys):
    for mesh in ("data:1", "data:2,fsdp:4"):
        output = tmp_path / f"{mesh[-1]}.json"
        arguments = [f"--init={place}/run", f"--data=jsonl:{place}/test.jsonl", f"--mesh={mesh}", f"--output={output}"]
        assert evaluate.main(arguments) == 0
        found = json.loads(output.read_text())
        assert found.pop("examples") == 21
        found.pop("data")
        assert found == pytest.approx(summary(place / "run")["others"]["test"], rel=1e-5)
    assert "21 examples" in capsys.readouterr().out


def test_a_stopped_run_goes_on_to_the_same_bits(place, tmp_path, monkeypatch, capsys):
    stop_after(monkeypatch, 20)
    again = flags("classification", place, tmp_path / "again", test_data=f"jsonl:{place}/test.jsonl")
    finetune.main(again)
    assert "all is saved" in capsys.readouterr().out
    assert not (tmp_path / "again" / "summary.json").exists()
    monkeypatch.undo()
    assert finetune.main(again) == 0
    for split in ("train", "validation"):
        ours, theirs = (without_times(lines(folder, split)) for folder in (tmp_path / "again", place / "run"))
        assert ours[-1] == theirs[-1]
    jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path / "again"), params_of(place / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("head", [head for head in HEADS if head != "classification"])
def test_every_head_from_training_to_prediction(place, tmp_path, head, capsys):
    assert finetune.main(flags(head, place, tmp_path / "run", epochs=1)) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "validation loss" in output
    assert evaluate.main([f"--init={tmp_path}/run"]) == 0
    capsys.readouterr()
    record = json.loads((place / f"{head}.jsonl").read_text().splitlines()[0])
    assert predict.main([f"--init={tmp_path}/run", json.dumps(record)]) == 0
    found = json.loads(capsys.readouterr().out)
    if head == "token":
        assert len(found["tags"]) == len(record["text"])
    elif head == "span":
        assert found["label"] in record["text"]
    elif head == "choice":
        assert found["label"] in (0, 1)
        assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    else:
        assert np.isfinite(found["label"])


@pytest.mark.slow
def test_predict_answers_every_question_where_all_have_an_answer(place, tmp_path, capsys):
    rows = [line for line in (place / "span.jsonl").read_text().splitlines() if json.loads(line)["label"]["text"]]
    (tmp_path / "answered.jsonl").write_text("\n".join(rows))
    run, questions = tmp_path / "run", [json.dumps({"text": "w1 w2", "second": f"w{n}"}) for n in range(20)]
    changes = {"data": f"jsonl:{tmp_path}/answered.jsonl", "learning_rate": 0, "epochs": 1}
    assert finetune.main(flags("span", place, run, **changes)) == 0
    assert json.loads((run / "labels.json").read_text())["may_be_empty"] is False
    capsys.readouterr()

    def answers():
        assert predict.main([f"--init={run}", *questions]) == 0
        return [json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()]

    assert all(answers())
    (run / "labels.json").write_text('{"classes": []}')  # as older versions wrote it: any may be without
    assert not all(answers())


def test_predict_reads_files_and_standard_input(place, tmp_path, monkeypatch, capsys):
    texts = [json.dumps({"text": text, "second": "w3"}) for text in ("w1 w2", "w20s w4", "w7")]
    (tmp_path / "texts.jsonl").write_text("\n".join([*texts, ""]))
    assert predict.main([f"--init={place}/run", f"--input={tmp_path}/texts.jsonl"]) == 0
    from_file = capsys.readouterr().out
    assert predict.main([f"--init={place}/run", *texts]) == 0
    assert capsys.readouterr().out == from_file
    with (tmp_path / "texts.jsonl").open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        assert predict.main([f"--init={place}/run"]) == 0
    assert capsys.readouterr().out == from_file
    found = [json.loads(line) for line in from_file.splitlines()]
    assert [line["text"] for line in found] == ["w1 w2", "w20s w4", "w7"]
    assert all(line["label"] == max(line["probabilities"], key=line["probabilities"].get) for line in found)


def test_a_tuned_model_is_handed_on_with_its_labels(place, tmp_path):
    assert convert.main([f"{place}/run", f"hf:{tmp_path}/there"]) == 0
    found = read_hf(tmp_path / "there")
    assert found.labels == ["high", "low"]
    ours, theirs = params_of(place / "run"), by_path(found.params)
    assert ours.keys() == theirs.keys()
    for path, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[path])


@pytest.mark.slow
def test_seeds_and_a_grid_are_compared(place, tmp_path, capsys):
    arguments = flags("classification", place, tmp_path / "runs")
    assert finetune.main([*arguments, "--seeds=2", "--grid=lr:0.02,0"]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "4 runs: mean ± standard deviation" in output
    found = json.loads((tmp_path / "runs" / "runs.json").read_text())
    assert list(found) == ["learning_rate=0.02", "learning_rate=0"]
    folders = [tmp_path / "runs" / f"learning_rate=0.02_seed={seed}" for seed in range(2)]
    assert [summary(folder)["loss"] for folder in folders] == found["learning_rate=0.02"]["loss"]["runs"]
    # A run that learns nothing has failed, and counts in no mean.
    assert found["learning_rate=0"]["failed"] == [f"learning_rate=0 seed={seed}" for seed in range(2)]
    assert "no better than a blind guess" in output


@pytest.mark.slow
def test_a_run_that_gets_no_better_ends(place, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "SAVE_STEPS", 3)
    assert finetune.main(flags("classification", place, tmp_path, epochs=9, learning_rate=0, patience=2)) == 0
    assert summary(tmp_path)["steps"] == 3 * 2  # epochs of 2 steps: the first is the best, two bring nothing


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ""}, "--data=: expected labelled texts"),
        ({"data": "jsonl:nowhere.jsonl"}, "nowhere.jsonl"),
        ({"label_column": "labl"}, "no column 'labl'.*'label'"),
        ({"task": "classify"}, "--task=classify: expected one of"),
        ({"init": ""}, "--init=: expected"),
        ({"init": "hf:nowhere"}, r"nowhere holds no config\.json"),
        ({"init": "nowhere"}, "nowhere is not a work folder"),
        ({"sequence_length": 64}, "--sequence_length=64 is longer than the position table"),
        ({"global_batch_size": 1000}, "fewer than --global_batch_size=1000"),
        ({"grid": "rate:1"}, "there is no flag --rate"),
        ({"grid": "lr=1"}, "is not NAME:VALUE"),
        ({"task": "span", "class_weights": "balanced"}, "--class_weights=balanced: a task of span has no classes"),
        ({"mesh": "tensor:2"}, "does not divide by tensor:2"),
        ({"freeze": "nothing"}, "--freeze=nothing matches no parameter"),
    ],
)
def test_mistakes_are_named_and_the_folder_can_be_used_again(place, tmp_path, changes, message):
    with pytest.raises(UserError, match=f"(?s){message}"):
        finetune.main(flags("classification", place, tmp_path / "run", **changes))
    shutil.rmtree(tmp_path / "run", ignore_errors=True)


def test_labels_that_are_not_in_the_training_set(place, tmp_path):
    text = (place / "classification.jsonl").read_text().replace('"low"', '"tiny"')
    (tmp_path / "other.jsonl").write_text(text)
    changes = {"validation_data": f"jsonl:{tmp_path}/other.jsonl"}
    with pytest.raises(UserError, match=r"label 'tiny'.*expected one of high, low"):
        finetune.main(flags("classification", place, tmp_path / "run", **changes))


def test_a_label_that_only_the_held_out_share_has_is_a_class(place):
    labels = LabelsConfig(data=f"jsonl:{place}/classification.jsonl")
    train, validation = [{"label": "low"}, {"label": "high"}], [{"label": "rare"}]
    assert classes_of(labels, train, validation) == ["high", "low", "rare"]
    apart = dataclasses.replace(labels, validation_data=labels.data)
    assert classes_of(apart, train, validation) == ["high", "low"]


def test_balanced_weights_are_those_of_tags():
    labels = LabelsConfig(task="token", class_weights="balanced")
    records = [{"text": ["w1", "w2s"], "label": ["O", "O"]}, {"text": ["w3", "w4"], "label": ["O", "B-x"]}]
    texts = encode(labels, records, tokenizer(), ["B-x", "O"], weigh=True).texts
    batch = pack_texts(texts, np.arange(2), 32, 1)
    found, weights = batch["labels"], batch["weights"]["label"]
    np.testing.assert_allclose(np.unique(weights), [0, 4 / (2 * 3), 4 / 2])  # as scikit-learn has it, and 0 elsewhere
    assert found[weights == 2].tolist() == [0]
    assert found[(weights > 0) & (weights < 2)].tolist() == [1, 1, 1]
