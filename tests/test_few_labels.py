"""A masked autoencoder beside random parameters, where few images have labels."""

import dataclasses
import json

import pytest

from core_jax.errors import UserError
from experiments import few_labels
from experiments.few_labels import FewLabels, main, table


@pytest.mark.parametrize("name", ["images_per_class", "seeds", "pretraining_steps", "steps"])
def test_numbers_of_nothing_are_refused(name):
    with pytest.raises(UserError, match=f"--{name}=0: expected 1 or more"):
        dataclasses.replace(FewLabels(), **{name: 0})


def test_the_table_has_mean_and_deviation_of_each_start():
    lines = table(FewLabels(), {"random parameters": [0.4, 0.5], "masked autoencoder": [0.75]}).splitlines()
    assert lines[2:] == [
        "| random parameters | 45.00 % ± 7.07 % | 40.00 %, 50.00 % |",
        "| masked autoencoder | 75.00 % | 75.00 % |",
    ]


def test_both_starts_learn_from_the_same_images_by_the_same_recipe(tmp_path, monkeypatch):
    commands = []

    def ensure_finished(title, folder, module, flags):
        commands.append((module, set(flags)))
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "summary.json").write_text(json.dumps({"accuracy": len(commands) / 10}))
        return 0

    monkeypatch.setattr(few_labels, "ensure_finished", ensure_finished)
    workdir, output = tmp_path / "runs", tmp_path / "table.md"
    model = "--image_size=8 --width=32"
    assert main(["--seeds=2", f"--flags={model}", f"--workdir={workdir}", f"--output={output}"]) == 0
    (hidden, flags), *learnt = commands
    assert hidden == "experiments.pretrain"
    assert flags > {"--objective=mae", *model.split()}
    assert [module for module, _ in learnt] == ["experiments.pretrain", "experiments.finetune"] * 2
    for (_, scratch), (_, pretrained), seed in zip(learnt[::2], learnt[1::2], range(2), strict=True):
        assert scratch - pretrained == {"vit-tiny"}
        assert pretrained - scratch == {"--task=image_classification", f"--init={workdir}/mae"}
        assert scratch > {f"--seed={seed}", "--images_per_class=10", *model.split()}
    assert "| masked autoencoder | 40.00 % ± 14.14 % | 30.00 %, 50.00 % |" in output.read_text()


def test_a_run_that_fails_ends_the_comparison(tmp_path, monkeypatch):
    monkeypatch.setattr(few_labels, "ensure_finished", lambda *_: 1)
    assert main([f"--workdir={tmp_path}"]) == 1
