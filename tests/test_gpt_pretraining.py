"""GPT through the commands, and the same training on every mesh, with accumulation, scanned, or interrupted."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from bert_jax.gpt import Gpt
from bert_jax.gpt_pretraining import open_trained
from bert_jax.gpt_tasks import initial_params, next_token_loss
from core_jax.errors import UserError
from core_jax.optimizers import make_optimizer
from core_jax.sharding import parse_mesh
from core_jax.train import create_state, make_step
from core_jax.transformer import stack_layers, unstack_layers
from experiments import convert, embed, evaluate, predict, pretrain
from tests.same_training import assert_same
from tests.tiny_gpt import changed
from tests.tiny_run import flags, write_text
from tests.tiny_training import MESHES, OPTIMIZER, STEPS, compiled, mesh_of, take_steps

CONFIG = changed(width=16, mlp_width=32, vocab_size=32, maximum_positions=8, initializer_range=0.1)
ROWS, LENGTH = 32, 8
SIZES = {"sequence_length": 32, "maximum_positions": 32, "vocab_size": 300, "evaluation_passes": None}


def host_batch(step: int) -> dict:
    """Rows of two texts and padding, a function of the step."""
    random = np.random.default_rng(step)
    lengths = random.integers(1, 5, (ROWS, 2, 1))
    places = np.arange(LENGTH)
    first, both = lengths[:, 0], lengths.sum(axis=1)
    segments = np.where(places < first, 1, np.where(places < both, 2, 0)).astype(np.int32)
    tokens, labels = random.integers(0, 32, (2, ROWS, LENGTH), dtype=np.int32)
    positions = np.where(places < first, places, np.maximum(places - first, 0)).astype(np.int32)
    weights = {"next": (segments > 0).astype(np.float32)}
    return {"tokens": tokens, "labels": labels, "segments": segments, "positions": positions, "weights": weights}


def change_layers(params, change):
    return params | {"decoder": change(params["decoder"])}


@functools.cache
def trajectory(mesh, accumulation=1, scan_layers=False):
    """Metrics of each step; the last parameters and first moments, with unrolled layers."""
    optimizer = make_optimizer(OPTIMIZER, STEPS)
    model = Gpt(dataclasses.replace(CONFIG, scan_layers=scan_layers))
    state = create_state(initial_params(Gpt(CONFIG)), optimizer, mesh_of("data:1"), seed=0)
    if scan_layers:
        params = change_layers(state.params, stack_layers)
        state = dataclasses.replace(state, params=params, opt=optimizer.init(params))
    step = make_step(next_token_loss(model, train=True), optimizer, accumulation)
    state, metrics = take_steps(compiled(mesh, state, step, host_batch), 3, host_batch)
    trees = jax.device_get((state.params, state.opt[1].mu))
    return metrics, *(change_layers(tree, unstack_layers) if scan_layers else tree for tree in trees)


@pytest.mark.parametrize(
    ("mesh", "accumulation", "scan_layers"),
    [(MESHES[3], 4, False), pytest.param(MESHES[2], 1, True, marks=pytest.mark.slow)],
)
def test_training_is_the_same_everywhere(mesh, accumulation, scan_layers):
    assert_same(trajectory(mesh, accumulation, scan_layers), trajectory("data:1"))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


def command(folder, text, **changes):
    """The command line of a tiny run; what a GPT does not have is left out."""
    given = flags(folder, text, **SIZES | changes)
    return ["gpt-mini", *(flag for flag in given if not flag.endswith("=None"))]


@pytest.fixture(scope="module")
def workdir(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "gpt"
    assert pretrain.main(command(folder, text, steps=4)) == 0
    return folder


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.slow
def test_a_run_goes_on_to_the_bit(workdir, text, tmp_path, capsys):
    folder = tmp_path / "parts"
    constant = {"schedule": "constant"}
    assert pretrain.main(command(folder, text, steps=2, **constant)) == 0
    assert pretrain.main(command(folder, text, steps=4, **constant)) == 0
    assert "going on from step 2" in capsys.readouterr().out
    assert pretrain.main(command(tmp_path / "whole", text, steps=4, **constant)) == 0
    one, other = (
        open_trained(str(place), parse_mesh("data:1"), report=pytest.fail) for place in (folder, tmp_path / "whole")
    )
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    assert summary(folder)["loss"] == summary(tmp_path / "whole")["loss"]


def test_scores_stand_beside_those_of_the_baseline(workdir, capsys):
    found = summary(workdir)
    for prefix in ("", "ngram_"):
        assert found[f"{prefix}perplexity"] == pytest.approx(np.exp(found[f"{prefix}loss"]))
    ratio = found["bits_per_byte"] / found["ngram_bits_per_byte"]
    assert ratio == pytest.approx(found["loss"] / found["ngram_loss"])
    assert evaluate.main([f"--init={workdir}"]) == 0
    assert f"{found['loss']:.4f}" in capsys.readouterr().out


def test_other_commands_say_that_a_gpt_is_not_theirs(workdir, tmp_path):
    output = f"--output={tmp_path / 'x.npy'}"
    for main, arguments in ((predict.main, ["a [MASK]"]), (embed.main, [output, "--data=sample"])):
        with pytest.raises(UserError, match="is a GPT"):
            main([f"--init={workdir}", *arguments])


@pytest.mark.slow
def test_there_and_back_through_a_folder_of_transformers(workdir, text, tmp_path, capsys):
    pytest.importorskip("transformers")
    assert convert.main([str(workdir), f"hf:{tmp_path / 'hf'}", "--verify"]) == 0
    for name, init in (("foreign", f"hf:{tmp_path / 'hf'}"), ("own", workdir)):
        assert pretrain.main(command(tmp_path / name, text, init=init, learning_rate=0.0, steps=1)) == 0
        one, other = (
            open_trained(str(place), parse_mesh("data:1"), report=pytest.fail) for place in (workdir, tmp_path / name)
        )
        jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
        assert summary(tmp_path / name)["loss"] == pytest.approx(summary(workdir)["loss"])
