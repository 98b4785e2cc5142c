"""An encoder of sound names recordings and spells them: what counts, what is hidden, and the commands."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.letters import letters_of, read_out, spell, spelt
from core_jax.errors import UserError
from core_jax.flops import count_flops
from core_jax.sharding import parse_mesh
from core_jax.workdir import read_records
from experiments import evaluate, finetune, predict
from experiments.speech import encoder_starts
from experiments.speech.hearing_config import SPELLING
from experiments.speech.hearing_runs import build_model
from experiments.speech.weights import write_hf
from tests.same_training import assert_same_on_meshes
from tests.tiny_whisper import ENCODER, tokenizer, tone, whisper, write_spoken
from vit_jax.audio_clips import Clip, ClipExamples, ClipsConfig
from vit_jax.audio_encoder import AudioEncoder
from vit_jax.audio_files import RATE
from vit_jax.audio_labels import AudioForLabels, Head, heard_where, initial_audio_params
from vit_jax.audio_tasks import batch_shapes, recording_loss, step_flops
from vit_jax.ctc import best_path, ctc_loss, needed_positions

FRAMES = np.array([100, 31, 60, 1, 99, 100, 50, 20], np.int32)
LETTERS = 3
SIZES = "--width=24 --depth=2 --heads=4 --mlp_width=40 --mel_bands=12 --window_seconds=1 --dtype=float32 --dropout=0"
PLAIN = "--global_batch_size=8 --time_masks=0 --frequency_masks=0 --evaluate_every=0 --mesh=data:2"


def model(head: Head) -> AudioForLabels:
    return AudioForLabels(ENCODER, head, 5)


def params_of(head: Head) -> Any:
    fresh = initial_audio_params(model(head))(jax.random.key(0))
    return jax.tree.map(lambda leaf: leaf * 5, fresh)  # so that attention is not flat


def batch(head: Head) -> Any:
    random = np.random.default_rng(0)
    shapes = batch_shapes(len(FRAMES), ENCODER, LETTERS if head == "position" else 0)
    made = jax.tree.map(lambda leaf: random.standard_normal(leaf.shape).astype(leaf.dtype), shapes)
    made |= {"frames": FRAMES, "labels": random.integers(1, 5, shapes["labels"].shape).astype(np.int32)}
    made["weights"] = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes["weights"])
    for values in made["weights"].values():
        values[3] = 0  # one position is too short for three letters
        if head == "position":
            values[1, 2:] = 0
    return made


@pytest.mark.parametrize("head", ["recording", "position"])
def test_what_lies_behind_a_recording_changes_nothing(head):
    loss, params, rows = recording_loss(model(head), train=False), params_of(head), batch(head)
    noisy, rows = rows["spectrograms"].copy(), jax.tree.map(jnp.asarray, rows)
    for row, frames in enumerate(FRAMES):
        noisy[row, frames:] = 9.0
    grad = jax.jit(jax.value_and_grad(lambda x: loss(params, rows | {"spectrograms": x}, jax.random.key(0))[0]))
    (clean, gradient), (other, _) = grad(jnp.asarray(rows["spectrograms"])), grad(jnp.asarray(noisy))
    assert clean == other
    for row, frames in enumerate(FRAMES):
        assert not np.asarray(gradient[row, frames:]).any()
        counts = row != 3
        assert np.asarray(gradient[row, :frames]).any() == counts  # a row without weight teaches nothing


def test_ctc_is_that_of_the_peer_and_of_all_ways_by_hand():
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(1)
    logits = random.standard_normal((4, 12, 5)).astype(np.float32)
    positions, counts = np.array([12, 7, 9, 3]), np.array([4, 3, 1, 2])
    labels = random.integers(1, 5, (4, 4)).astype(np.int32)
    labels[0, :2] = 2  # alike, one after the other
    weights = (np.arange(4) < counts[:, None]).astype(np.float32)
    total, number = ctc_loss(jnp.asarray(logits), *map(jnp.asarray, (positions, labels, weights)))
    theirs = torch.nn.functional.ctc_loss(
        torch.tensor(logits).log_softmax(-1).transpose(0, 1),
        torch.tensor(labels.astype(np.int64)),
        torch.tensor(positions),
        torch.tensor(counts),
        reduction="sum",
    )
    np.testing.assert_allclose(total, theirs.item(), rtol=1e-5)
    assert number == counts.sum()
    shares = np.exp(logits[3, :2]) / np.exp(logits[3, :2]).sum(-1, keepdims=True)
    one = shares[0, 2] * shares[1, 0] + shares[0, 0] * shares[1, 2] + shares[0, 2] * shares[1, 2]
    found, _ = ctc_loss(jnp.asarray(logits[3:]), jnp.array([2]), jnp.array([[2, 0]]), jnp.array([[1.0, 0.0]]))
    np.testing.assert_allclose(found, -np.log(one), rtol=1e-5)


def test_a_path_is_read_without_blanks_and_repetitions():
    path = np.array([0, 2, 2, 0, 2, 1, 1, 3, 0])
    assert best_path(np.eye(4)[path]).tolist() == [2, 2, 1, 3]
    assert needed_positions(np.array([2, 2, 1, 3])) == 5
    assert best_path(np.eye(4)[[0, 0]]).tolist() == []


def test_texts_are_spelt_in_small_letters():
    assert spelt("  C\u2019est  \u00c9t\u00e9, n\u00b0 5!\n") == "c'est \u00e9t\u00e9 n 5"
    assert spelt("E\u0301te\u0301") == "\u00e9t\u00e9"  # composed
    letters = letters_of(["b a", "ac"])
    assert letters == (" ", "a", "b", "c")
    assert read_out(spell("Cab x", letters).tolist(), letters) == "cab "
    with pytest.raises(UserError, match="no letters"):
        letters_of(["...", ""])


def test_where_it_listens_adds_up_and_leaves_the_silence_out():
    rows = batch("position")
    inputs = jnp.asarray(rows["spectrograms"]), jnp.asarray(FRAMES)
    weights = np.asarray(jax.jit(lambda p: heard_where(model("position"), p, *inputs))(params_of("position")))
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    for row, frames in enumerate(FRAMES):
        assert not weights[row, -(-int(frames) // 2) :].any()


@pytest.mark.parametrize("head", ["recording", "position"])
def test_operations_are_those_of_the_step(head):
    rows, shapes = jax.tree.map(jnp.asarray, batch(head)), jax.eval_shape(lambda: params_of(head))
    inputs = rows["spectrograms"], rows["frames"]
    forward = count_flops(lambda p: model(head).apply({"params": p}, *inputs), shapes)
    assert forward == step_flops(model(head), rows) // 3


def test_of_a_long_recording_another_window_is_heard_in_each_epoch(tmp_path):
    data = write_spoken(tmp_path, 1, seconds=2.0)
    path = json.loads((tmp_path / "spoken.jsonl").read_text())["audio"]
    assert data
    examples = ClipExamples([Clip(path, "a")], [{}], 100, 12, crop=True)
    first, again, other = (examples.example(epoch, 0)["spectrograms"] for epoch in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(tone(300.0, 2.0)) > RATE


@pytest.mark.slow
@pytest.mark.parametrize("head", ["recording", "position"])
def test_loss_and_gradients_are_the_same_on_any_mesh(head):
    assert_same_on_meshes(recording_loss(model(head), train=False), params_of(head), batch(head))


@pytest.fixture
def folder(tmp_path):
    write_hf(tmp_path / "model", whisper(), tokenizer().to_str())
    return tmp_path


def test_it_starts_with_the_encoder_of_a_whisper(folder):
    config = dataclasses.replace(SPELLING, init=f"hf:{folder}/model", clips=ClipsConfig(window_seconds=0.5))
    config = encoder_starts.adopt(config, print)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.0, scan_layers=True))
    spelling, mesh = build_model(config, 4), parse_mesh("data:8")
    fresh = initial_audio_params(spelling)(jax.random.key(0))
    params = encoder_starts.load(config, tuple("abcd"), fresh, mesh, print)
    sound = jnp.asarray(batch("position")["spectrograms"][:, :50])
    states: Any = AudioEncoder(spelling.config).apply({"params": params["encoder"]}, sound)
    theirs: Any = AudioEncoder(ENCODER).apply({"params": whisper().params["encoder"]}, sound)
    np.testing.assert_allclose(states, theirs, atol=1e-5)
    assert np.array_equal(params["classifier"]["kernel"], fresh["classifier"]["kernel"])


def scores(workdir):
    return [line for line in read_records(str(workdir)) if line["split"] == "held_out"]


def printed(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


@pytest.mark.slow
def test_it_spells_tones_goes_on_to_the_bit_and_writes_them_down(folder, capsys):
    data = write_spoken(folder, 16)
    flags = ["--task=ctc", f"--data={data}", f"--validation_data={data}", *SIZES.split(), *PLAIN.split()]
    flags += [
        "--letters=8",
        "--learning_rate=2e-2",
        "--warmup_steps=10",
        "--checkpoint_every=50",
        "--schedule=constant",
    ]
    whole, parts = folder / "whole", folder / "parts"
    assert finetune.main([*flags, "--steps=150", f"--workdir={whole}"]) == 0
    for steps in (50, 150):
        assert finetune.main([*flags, f"--steps={steps}", f"--workdir={parts}"]) == 0
    assert scores(parts)[-1] == scores(whole)[-1]
    assert scores(whole)[-1]["word_error_rate"] < 0.5
    for name in ("loss.png", "heard_0.png", "heard_3.png", "outputs.json"):
        assert (whole / name).stat().st_size
    clips = [json.loads(line) for line in (folder / "spoken.jsonl").read_text().splitlines()]
    capsys.readouterr()
    assert predict.main([f"--init={whole}", f"--attention={folder}/seen", *(clip["audio"] for clip in clips)]) == 0
    wrong = np.mean([one["text"] != clip["text"] for one, clip in zip(printed(capsys), clips, strict=True)])
    assert wrong == scores(whole)[-1]["word_error_rate"]
    assert len(list((folder / "seen").iterdir())) == 16
    assert evaluate.main([f"--init={whole}", f"--data={data}", f"--output={folder}/scores.json"]) == 0
    assert json.loads((folder / "scores.json").read_text())["word_error_rate"] == wrong


@pytest.mark.slow
def test_it_tells_voices_apart_from_nothing_and_from_its_own_run(folder, capsys):
    data = write_spoken(folder, 16)
    flags = ["--task=audio_classification", f"--data={data}", f"--validation_data={data}", *PLAIN.split()]
    flags += ["--learning_rate=1e-2", "--warmup_steps=5", "--label_column=text", "--dropout=0"]
    first, second = folder / "first", folder / "second"
    assert finetune.main([*flags, *SIZES.split(), "--steps=60", f"--workdir={first}"]) == 0
    assert scores(first)[-1]["accuracy"] > 0.8
    assert finetune.main([*flags, f"--init={first}", "--steps=1", "--dtype=float32", f"--workdir={second}"]) == 0
    assert "the classifier is that of" in capsys.readouterr().out
    assert scores(second)[-1]["accuracy"] > 0.8
    assert evaluate.main([f"--init={first}", f"--output={folder}/scores.json"]) == 0
    kept = json.loads((folder / "scores.json").read_text())
    assert kept["accuracy"] == scores(first)[-1]["accuracy"]
    assert sum(row["examples"] for row in kept["classes"].values()) == 16  # each is counted once
    path = json.loads((folder / "spoken.jsonl").read_text().splitlines()[0])["audio"]
    capsys.readouterr()
    assert predict.main([f"--init={first}", path]) == 0
    [line] = printed(capsys)
    assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-4)


def test_mistakes_are_found_before_anything_is_compiled(folder):
    data = write_spoken(folder, 4)
    other = folder / "other.jsonl"
    other.write_text(json.dumps(json.loads((folder / "spoken.jsonl").read_text().splitlines()[0]) | {"text": "z"}))
    spelling = ["--task=ctc", f"--data={data}", f"--workdir={folder}/run"]
    naming = ["--task=audio_classification", f"--workdir={folder}/run"]
    init = f"--init=hf:{folder}/model"
    wrong = {
        "no column 'said'": [*spelling, init, "--text_column=said"],
        "--window_seconds=2: .* hears 1 seconds": [*spelling, init, "--window_seconds=2"],
        "is not a work folder|config.json": [*spelling, f"--init={folder}/nothing"],
        "--data=: expected recordings": naming,
        "no column 'label'": [*naming, init, f"--data={data}"],
        "labels that are not trained on": [
            *(*naming, init, "--label_column=text", f"--data={data}", f"--validation_data=jsonl:{other}"),
        ],
    }
    for message, flags in wrong.items():
        with pytest.raises(UserError, match=message):
            finetune.main(flags)
