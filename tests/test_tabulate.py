"""Finished runs of any kind in one table."""

import json
import re

import pytest

from core_jax.errors import UserError
from experiments.tabulate import main


def make_run(folder, config, summary):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if summary:
        (folder / "summary.json").write_text(json.dumps(summary))
    return str(folder)


def test_seeds_are_joined_and_test_scores_come_first(tmp_path, capsys):
    runs = [
        make_run(
            tmp_path / "words" / str(seed),
            {"tuning": {"seed": seed, "workdir": f"runs/{seed}", "epochs": 2}},
            {"accuracy": 0.1, "f1": 0.4, "others": {"test": {"accuracy": accuracy}}, "metric": "accuracy"},
        )
        for seed, accuracy in enumerate([0.5, 0.7])
    ]
    longer = make_run(tmp_path / "longer", {"tuning": {"seed": 0, "epochs": 3}}, {"accuracy": 0.25, "others": {}})
    german = make_run(tmp_path / "german", {"task": "translation"}, {"bleu": 7.25, "copy_bleu": 2.0, "chrf": 20.0})
    output = tmp_path / "table.md"
    assert main([*runs, longer, german, f"--output={output}"]) == 0
    assert output.read_text().splitlines() == [
        "| run | seeds | accuracy | f1 | bleu | copy bleu | chrf |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        f"| {tmp_path}/words | 2 | 60.00 % ± 14.14 % | 0.4000 ± 0.0000 |  |  |  |",
        f"| {longer} | 1 | 25.00 % |  |  |  |  |",
        f"| {german} | 1 |  |  | 7.2 | 2.0 | 20.0 |",
    ]
    capsys.readouterr()
    assert main([*runs, "--scores=accuracy", "--subset=validation"]) == 0
    assert "| 10.00 % ± 0.00 % |" in capsys.readouterr().out


def test_what_cannot_be_shown_is_named(tmp_path):
    ended = make_run(tmp_path / "ended", {"seed": 0}, {"accuracy": 0.5, "loss": 1.0})
    running = make_run(tmp_path / "running", {"seed": 1}, None)
    with pytest.raises(UserError, match=re.escape(f"{running} has no summary.json yet")):
        main([ended, running])
    with pytest.raises(UserError, match="no run has recall; there are accuracy, loss"):
        main([ended, "--scores=accuracy,recall"])
    with pytest.raises(UserError, match="no run is named"):
        main([])
    with pytest.raises(UserError, match="is not a work folder"):
        main([str(tmp_path)])
