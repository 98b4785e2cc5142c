"""A Whisper learns from recordings and their texts: what it hears, what counts, and the command."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.draws import generator
from core_jax.errors import UserError
from core_jax.flops import count_flops
from core_jax.workdir import read_records
from experiments import finetune, transcribe
from experiments.speech.tasks import batch_shapes, step_flops, transcript_loss
from experiments.speech.transcripts import target
from experiments.speech.weights import write_hf
from tests.same_training import assert_same_on_meshes
from tests.tiny_whisper import DECODER, ENCODER, tokenizer, tone, whisper, write_spoken
from vit_jax.audio_clips import Clip, ClipExamples, list_clips, spectrogram
from vit_jax.audio_encoder import AudioEncoder, positions_of
from vit_jax.log_mel import HOP
from vit_jax.spectrogram_masking import MaskingConfig, mask_spectrogram

RECIPE = "--task=transcription --sequence_length=8 --learning_rate=5e-3 --warmup_steps=5 --dtype=float32"


def test_masks_are_a_function_of_the_draw_and_leave_the_silence_behind():
    shown = np.random.default_rng(0).standard_normal((60, 12)).astype(np.float32)
    config = MaskingConfig(frequency_mask_bands=4, time_mask_frames=10, time_mask_share=0.5)
    masked = [mask_spectrogram(shown, 40, config, generator(3, epoch, 5)) for epoch in (0, 0, 1)]
    assert np.array_equal(masked[0], masked[1])
    assert not np.array_equal(masked[0], masked[2])
    changed = np.stack(masked) != shown
    assert not changed[:, 40:].any()
    assert np.allclose(np.stack(masked)[changed], shown[:40].mean())
    none = MaskingConfig(frequency_masks=0, time_masks=0)
    assert np.array_equal(mask_spectrogram(shown, 40, none, generator(0, 0, 0)), shown)


def test_masks_are_no_longer_than_asked():
    shown, config = (
        np.arange(1200, dtype=np.float32).reshape(100, 12),
        MaskingConfig(
            frequency_masks=1, frequency_mask_bands=3, time_masks=1, time_mask_frames=50, time_mask_share=0.1
        ),
    )
    for index in range(50):
        changed = mask_spectrogram(shown, 100, config, generator(0, 0, index)) != shown
        bands, frames = changed.mean(axis=0) > 0.5, changed.mean(axis=1) > 0.5
        assert bands.sum() <= 3
        assert frames.sum() <= 10


@pytest.mark.parametrize("frames", [1, 30, 31])
def test_what_lies_behind_a_recording_is_not_heard(frames):
    model, params = AudioEncoder(ENCODER), whisper().params["encoder"]
    sound = np.random.default_rng(0).standard_normal((1, 60, ENCODER.mel_bands)).astype(np.float32)
    count = jnp.array([frames])
    positions = int(positions_of(count)[0])

    def hear(x):
        states: Any = model.apply({"params": params}, jnp.asarray(x), count)
        return states[:, :positions]

    states, noisy = hear(sound), sound.copy()
    noisy[:, frames:] = 7.0
    assert np.array_equal(hear(noisy), states)
    np.testing.assert_allclose(hear(sound[:, : frames + frames % 2]), states, atol=1e-5)
    alone: Any = model.apply({"params": params}, jnp.asarray(sound[:, :frames]))
    np.testing.assert_allclose(alone, states, atol=1e-5)
    gradient = jax.grad(lambda x: jnp.sum(hear(x) ** 2))(jnp.asarray(sound))
    assert np.abs(gradient[:, :frames]).min(axis=(0, 2)).all()
    assert not np.asarray(gradient[:, frames:]).any()


def test_what_stands_before_a_transcript_is_given_and_not_learnt():
    found = target([9, 10, 13, 16, 4, 5, 8], 4, 8)
    assert found["tokens"].tolist() == [9, 10, 13, 16, 4, 5, 0, 0]
    assert found["labels"].tolist() == [10, 13, 16, 4, 5, 8, 0, 0]
    assert found["weights"]["next"].tolist() == [0, 0, 0, 1, 1, 1, 0, 0]
    assert found["segments"].tolist() == [1, 1, 1, 1, 1, 1, 0, 0]


def test_a_window_holds_a_recording_and_silence():
    long, short = (spectrogram(tone(300.0, seconds), 100, 12) for seconds in (1.7, 0.333))
    assert long[1] == 100
    assert short[1] == 34
    assert short[0][40:].max() == short[0][40:].min()  # silence has one loudness, the lowest
    assert len(tone(300.0, 0.333)) <= short[1] * HOP


def batch(count=8):
    shapes, random = batch_shapes(count, ENCODER, 8), np.random.default_rng(0)
    made = jax.tree.map(lambda leaf: random.integers(1, 8, leaf.shape).astype(leaf.dtype), shapes)
    made["segments"] = np.ones((count, 8), np.int32)
    return made | {"weights": {"next": random.random((count, 8)).astype(np.float32)}}


@pytest.mark.slow
def test_loss_and_gradients_are_the_same_on_any_mesh():
    assert_same_on_meshes(transcript_loss(whisper().model, train=False), whisper().params, batch())


def test_operations_are_those_of_the_step():
    model, rows = whisper().model, jax.tree.map(jnp.asarray, batch(2))
    shapes = jax.eval_shape(lambda: whisper().params)
    loss = transcript_loss(model, train=False)
    forward = count_flops(lambda p, b: loss(p, b, jax.random.key(0))[0], shapes, rows)
    counted = step_flops(ENCODER, DECODER, rows) // 3
    seen_twice = 2 * 2 * DECODER.depth * 2 * DECODER.width * (8 * 8 - 8 * 9 // 2)  # what a causal mask hides
    assert forward == counted + seen_twice


@pytest.fixture
def folder(tmp_path):
    write_hf(tmp_path / "model", whisper(), tokenizer().to_str())
    return tmp_path


def scores(workdir):
    return [line for line in read_records(str(workdir)) if line["split"] == "held_out"]


@pytest.mark.slow
def test_it_learns_what_tones_say_goes_on_to_the_bit_and_writes_it_down(folder, capsys):
    data = write_spoken(folder, 16)
    flags = [*RECIPE.split(), f"--init=hf:{folder}/model", f"--data={data}", f"--validation_data={data}"]
    flags += ["--global_batch_size=8", "--checkpoint_every=20", "--time_masks=0", "--schedule=constant"]
    whole, parts = folder / "whole", folder / "parts"
    assert finetune.main([*flags, "--steps=60", f"--workdir={whole}"]) == 0
    for steps in (20, 60):
        assert finetune.main([*flags, f"--steps={steps}", f"--workdir={parts}"]) == 0
    assert scores(parts)[-1] == scores(whole)[-1]
    last = scores(whole)[-1]
    assert last["word_error_rate"] < min(0.3, last["before_word_error_rate"])
    for name in ("loss.png", "attention_0.png", "attention_3.png", "tokenizer/tokenizer.json"):
        assert (whole / name).stat().st_size
    capsys.readouterr()
    assert transcribe.main([f"--init={whole}", f"--data={data}", "--timestamps=False"]) == 0
    printed = capsys.readouterr().out
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    known = [json.loads(line)["text"] for line in (folder / "spoken.jsonl").read_text().splitlines()]
    wrong = np.mean([line["text"] != text for line, text in zip(lines, known, strict=True)])
    assert wrong == last["word_error_rate"]


def test_mistakes_are_found_before_anything_is_read(folder):
    data = write_spoken(folder, 4)
    plain = ["--task=transcription", f"--data={data}", f"--workdir={folder}/run"]
    init = f"--init=hf:{folder}/model"
    wrong = {
        "expected a Whisper": plain,
        "no column 'said'": [*plain, init, "--text_column=said", "--sequence_length=8"],
        "--language=nl: expected auto, or one of de, en": [*plain, init, "--language=nl", "--sequence_length=8"],
        "--sequence_length=64 is longer than the position table": [*plain, init, "--sequence_length=64"],
        "--window_seconds=2: .* hears 1 seconds": [*plain, init, "--window_seconds=2"],
        "is not a work folder|config.json": [*plain, f"--init={folder}/nothing"],
    }
    for message, flags in wrong.items():
        with pytest.raises(UserError, match=message):
            finetune.main(flags)


def test_recordings_that_cannot_be_heard_are_named(tmp_path):
    (tmp_path / "cut.wav").write_bytes(b"RIFF")
    with pytest.raises(UserError, match=r"cut\.wav cannot be read as sound"):
        _ = Clip(str(tmp_path / "cut.wav"), "a").seconds
    data = write_spoken(tmp_path, 8)
    for number in (1, 6):
        path = tmp_path / f"spoken_{number}.wav"
        path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(
        UserError, match=r"2 of 8 recordings cannot be used(.|\n)*spoken_1\.wav is cut(.|\n)*spoken_6\.wav"
    ):
        list_clips(data, "audio", "text")
    examples = ClipExamples([Clip(str(tmp_path / "gone.wav"), "a")], [{}], 100, 12)
    with pytest.raises(UserError, match=r"no file .*gone\.wav"):
        examples.example(0, 0)
