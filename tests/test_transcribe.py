"""Recordings are written down: alone, together and on any mesh the same, all of each, with an error for bad input."""

import json

import jax
import numpy as np
import pytest

from core_jax.errors import UserError
from core_jax.sharding import parse_mesh
from experiments import predict, transcribe
from experiments.speech.recognizer import Recognizer
from experiments.speech.weights import write_hf
from experiments.speech.word_errors import count_errors
from tests.tiny_whisper import SECONDS, noises, tokenizer, tokens, whisper, write_clips
from vit_jax.audio_files import RATE


def write_down(sounds, batch_size, mesh="data:1", language="de", *, stamps=True):
    mesh = parse_mesh(mesh)
    recognizer = Recognizer(whisper(), tokens(), mesh, task="transcribe", stamps=stamps, batch_size=batch_size)
    recordings, heard = [recognizer.record(samples, language) for samples in sounds], []
    recognizer.transcribe(recordings, heard.append)
    assert sum(heard) == pytest.approx(sum(one.seconds for one in recordings))
    return recordings


@pytest.mark.slow
def test_alone_together_and_on_any_mesh_it_is_the_same():
    sounds = noises(5)
    alone = [write_down([sound], 1)[0] for sound in sounds]
    assert any(len(one.segments) > 1 for one in alone)
    for together in (write_down(sounds, 3), write_down(sounds, 4, "data:2,fsdp:2,tensor:2")):
        for one, expected in zip(together, alone, strict=True):
            assert one.segments == expected.segments
            assert all(0 <= piece.start <= piece.end <= one.seconds for piece in one.segments)


@pytest.mark.slow
def test_without_time_stamps_windows_follow_each_other():
    [one] = write_down([noises(2)[1]], 1, stamps=False)
    assert [(piece.start, piece.end) for piece in one.segments] == [
        (0.0, SECONDS),
        (SECONDS, 2 * SECONDS),
        (2 * SECONDS, pytest.approx(2.3)),
    ]


@pytest.mark.slow
def test_silence_has_no_words_and_a_language_is_told_from_the_sound():
    silent, loud = write_down([np.zeros(RATE, np.float32), noises(1)[0]], 2, language="auto")
    assert not silent.segments
    assert loud.language in tokens().languages


@pytest.mark.slow
def test_the_peer_writes_the_same(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    write_hf(tmp_path, whisper())
    peer = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path).eval()
    for sound in noises(1):
        [one] = write_down([sound], 1, stamps=False)
        prompt = tokens().prompt("de", "transcribe", stamps=False)
        recognizer = Recognizer(
            whisper(), tokens(), parse_mesh("data:1"), task="transcribe", stamps=False, batch_size=1
        )
        frames = recognizer.record(sound, "de").frames[: whisper().encoder.frames]
        written, features = list(prompt), torch.tensor(frames.T[None])
        with torch.no_grad():
            while len(written) < whisper().decoder.maximum_positions:
                logits = peer(features, decoder_input_ids=torch.tensor([written])).logits[0, -1]
                first = [3] if len(written) == len(prompt) else []
                logits[[1, 2, *first, *range(tokens().first_stamp, len(logits))]] = -float("inf")
                written.append(int(logits.argmax()))
                if written[-1] == tokens().end_id:
                    break
        expected = [token for token in written[len(prompt) :] if token != tokens().end_id]
        found = [token for piece in one.segments for token in piece.tokens]
        assert found == expected


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model and clips."""
    folder = tmp_path_factory.mktemp("speech")
    write_hf(folder / "model", whisper(), tokenizer().to_str())
    clips = write_clips(folder, 3)
    lines = [json.dumps({"audio": path, "text": "A, b!"}) for path in clips]
    (folder / "clips.jsonl").write_text("\n".join(lines))
    return folder


@pytest.mark.slow
def test_the_command_prints_a_line_for_each_and_the_error_rate(folder, capsys):
    assert predict.main([f"--init=hf:{folder}/model", f"--data=jsonl:{folder}/clips.jsonl", "--language=en"]) == 0
    out = capsys.readouterr().out
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert [line["audio"] for line in lines] == [f"{folder}/{number}.wav" for number in range(3)]
    assert all(line["pieces"][-1]["end"] <= line["seconds"] for line in lines if line["pieces"])
    assert "error rate" in out


def test_errors_are_counted_without_case_and_punctuation():
    words, characters = count_errors(
        ["Cold-hearted, isn't it?", "one two"], ["cold hearted isn\u2019t it", "one too many"]
    )
    assert (words.substituted, words.left_out, words.added, words.all) == (1, 0, 1, 6)
    assert words.rate == pytest.approx(2 / 6)
    assert characters.all == len("cold hearted isnt it") + len("one two")
    assert count_errors([""], [""])[0].rate == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "expected recordings, such as clip.wav, or --data=jsonl:FILE"),
        (("{folder}/nowhere.wav",), "there is no file"),
        (("{folder}/0.wav", "--language=xx"), "--language=xx: expected auto, or one of de, en"),
        (("{folder}/0.wav", "--init=hf:{folder}"), "config.json"),
        (("{folder}/0.wav", "--init=ct2:{folder}"), "cannot be read .* expected a model.bin"),
        (("{folder}/0.wav", "--init=npz:x"), "--init=npz:x: expected hf:DIR .* ct2:DIR .* or the work folder"),
    ],
)
def test_mistakes_are_named(folder, flags, message):
    arguments = [flag.format(folder=folder) for flag in flags]
    if not any(flag.startswith("--init") for flag in arguments):
        arguments.append(f"--init=hf:{folder}/model")
    with pytest.raises(UserError, match=message):
        transcribe.main(arguments)
    assert jax.device_count() == 8


def test_a_model_of_english_takes_no_other_language():
    english = tokens(languages=False)
    assert len(english.prompt("en", "transcribe", stamps=True)) == 1
    with pytest.raises(UserError, match="--language=de: this model knows English only"):
        english.prompt("de", "transcribe", stamps=True)
    with pytest.raises(UserError, match="--task=translate: this model knows English only"):
        english.prompt("en", "translate", stamps=True)
