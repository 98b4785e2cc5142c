"""What `compare_tuning` runs beside us: without dropout both sides have the same losses and scores."""

import numpy as np
import pytest

from experiments import finetune, tuning_peer
from tests.tiny_tuning import flags, lines, summary, write_records, write_start


@pytest.mark.slow
@pytest.mark.parametrize("head", ["classification", "regression", "token", "choice"])
def test_both_sides_learn_alike_from_the_same_start(head, tmp_path):
    pytest.importorskip("transformers")
    write_start(tmp_path / "start")
    write_records(tmp_path / f"{head}.jsonl", head)
    settings = {"epochs": 3, "dropout": 0, "attention_dropout": 0, "dtype": "float32"}
    assert finetune.main(flags(head, tmp_path, tmp_path / "ours", **settings)) == 0
    assert tuning_peer.main(flags(head, tmp_path, tmp_path / "theirs", **settings)) == 0
    curve = summary(tmp_path / "theirs")["epochs"]
    ours = [(line["step"], line["loss"]) for line in lines(tmp_path / "ours", "validation")]
    np.testing.assert_allclose(ours, [(line["step"], line["loss"]) for line in curve], rtol=1e-4)
    assert len({line["loss"] for line in curve}) == 3
