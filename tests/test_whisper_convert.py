"""Whispers between work folders and `transformers`: to the bit there and back, and opened by the peer unchanged."""

import itertools
import json

import jax
import numpy as np
import pytest

from core_jax.errors import UserError
from core_jax.sharding import parse_mesh
from experiments import convert, finetune, transcribe, whisper_conversion
from experiments.speech.peer_files import peer_files
from experiments.speech.recognizer import Recognizer
from experiments.speech.weights import write_hf
from tests.byte_whisper import TEXTS, byte_whisper, tokens, vocabulary
from tests.tiny_whisper import noises, write_clips, write_spoken
from vit_jax.audio_files import RATE

RECIPE = "--task=transcription --sequence_length=24 --learning_rate=5e-3 --warmup_steps=1 --dtype=float32"


def write_peer(folder, whisper):
    """As an export does."""
    write_hf(folder, whisper, vocabulary().to_str(), peer_files(whisper, tokens()))


def test_there_and_back_is_the_identity(tmp_path):
    write_peer(tmp_path / "peer", byte_whisper())
    steps = [f"hf:{tmp_path}/peer", f"{tmp_path}/run", f"hf:{tmp_path}/again", f"{tmp_path}/last"]
    for source, target in itertools.pairwise(steps):
        assert convert.main([source, target]) == 0
    first, *others = [whisper_conversion.read(step) for step in steps]
    assert first.whisper.settings == byte_whisper().settings
    for other in others:
        jax.tree.map(np.testing.assert_array_equal, other.whisper.params, first.whisper.params)
        assert other.whisper.settings == first.whisper.settings
        assert (other.whisper.encoder, other.whisper.decoder) == (first.whisper.encoder, first.whisper.decoder)
        assert other.vocabulary == first.vocabulary
    for file in (tmp_path / "peer").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_what_cannot_be_converted(tmp_path):
    write_peer(tmp_path / "peer", byte_whisper())
    assert convert.main([f"hf:{tmp_path}/peer", f"{tmp_path}/run"]) == 0
    wrong = {
        "expected hf:DIR for one of them": [f"{tmp_path}/run", f"{tmp_path}/other"],
        "is written to hf:DIR or a work folder": [f"{tmp_path}/run", f"ct2:{tmp_path}/other"],
        "nothing is overwritten": [f"hf:{tmp_path}/peer", f"{tmp_path}/run"],
    }
    for message, arguments in wrong.items():
        with pytest.raises(UserError, match=message):
            convert.main(arguments)
    assert not (tmp_path / "other").exists()


@pytest.fixture(scope="module")
def peer():
    return pytest.importorskip("torch"), pytest.importorskip("transformers")


@pytest.mark.slow
def test_the_peer_opens_it_and_writes_what_is_written_here(tmp_path, peer, capsys):
    torch, transformers = peer
    write_peer(tmp_path / "from", byte_whisper())
    assert convert.main([f"hf:{tmp_path}/from", f"{tmp_path}/run", "--verify"]) == 0
    assert convert.main([f"{tmp_path}/run", f"hf:{tmp_path}/peer", "--verify"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "it hears 1 seconds at once, not 30: max_source_positions is 50" in said
    kind = transformers.WhisperForConditionalGeneration
    model, loading = kind.from_pretrained(tmp_path / "peer", output_loading_info=True)
    assert not any(loading.values())
    processor = transformers.WhisperProcessor.from_pretrained(tmp_path / "peer")
    sound = noises(3)[2]
    features = processor(sound, sampling_rate=RATE, return_tensors="pt").input_features
    assert features.shape[-1] == byte_whisper().encoder.frames
    found = whisper_conversion.read(f"{tmp_path}/run")
    assert processor.tokenizer.all_special_ids[-1] + 1 == found.tokens.first_stamp
    for text, ids in zip(TEXTS, found.tokens.encode(TEXTS), strict=True):
        assert processor.tokenizer(f" {text}", add_special_tokens=False).input_ids == ids
    with torch.no_grad():
        theirs = model.generate(features, language="de", task="transcribe")
    recognizer = Recognizer(
        found.whisper, found.tokens, parse_mesh("data:1"), task="transcribe", stamps=False, batch_size=1
    )
    one = recognizer.record(sound, "de")
    recognizer.transcribe([one], lambda seconds: None)
    [ours] = one.segments
    assert len(ours.tokens) > 5
    assert [token for token in theirs[0].tolist() if token < found.tokens.end_id] == ours.tokens


def test_a_window_of_a_broken_number_of_seconds_runs_there_as_it_is_said(tmp_path, peer, capsys):
    torch, transformers = peer
    write_peer(tmp_path / "from", byte_whisper(positions=40))
    assert convert.main([f"hf:{tmp_path}/from", f"hf:{tmp_path}/peer"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert 'call it with padding="max_length", max_length=12800, truncation=True' in said
    model = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path / "peer")
    processor = transformers.WhisperProcessor.from_pretrained(tmp_path / "peer")
    given = {"padding": "max_length", "max_length": 12800, "truncation": True}
    features = processor(noises(1)[0], sampling_rate=RATE, return_tensors="pt", **given).input_features
    with torch.no_grad():
        assert model.generate(features, language="de").shape[0] == 1


@pytest.mark.slow
def test_long_recordings_are_heard_there_in_short_windows(tmp_path, peer):
    torch, transformers = peer
    write_peer(tmp_path / "peer", byte_whisper())
    model = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path / "peer")
    processor = transformers.WhisperProcessor.from_pretrained(tmp_path / "peer")
    given = {"padding": "longest", "truncation": False, "return_attention_mask": True}
    inputs = processor(noises(2)[1], sampling_rate=RATE, return_tensors="pt", **given)
    with torch.no_grad():
        out = model.generate(**inputs, language="de", return_timestamps=True, return_segments=True)
    assert max(float(piece["end"]) for piece in out["segments"][0]) > 1.5


@pytest.mark.slow
def test_lora_is_exported_merged(tmp_path, peer):
    write_peer(tmp_path / "peer", byte_whisper())
    data = write_spoken(tmp_path, 8, seconds=0.4)
    flags = [*RECIPE.split(), f"--init=hf:{tmp_path}/peer", f"--data={data}", f"--validation_data={data}"]
    flags += ["--lora_rank=2", "--lora_targets=attention/(query|value)/", "--global_batch_size=8", "--steps=3"]
    assert finetune.main([*flags, "--window_seconds=0.6", f"--workdir={tmp_path}/run"]) == 0
    assert convert.main([f"{tmp_path}/run", f"hf:{tmp_path}/there", "--verify"]) == 0
    before, run, after = (
        whisper_conversion.read(place).whisper
        for place in (f"hf:{tmp_path}/peer", f"{tmp_path}/run", f"hf:{tmp_path}/there")
    )
    changed = lambda part: part["decoder"]["decoder"]["block_0"]["cross_attention"]["query"]["kernel"]  # noqa: E731
    assert np.abs(changed(after.params) - changed(before.params)).max() > 1e-4
    jax.tree.map(np.testing.assert_array_equal, after.params, run.params)
    assert after.encoder.maximum_positions == 30
    # What was exported is what goes on: it can be started from, and writes the same.
    assert convert.main([f"hf:{tmp_path}/there", f"{tmp_path}/back"]) == 0
    more = [*flags[:-1], "--steps=1", f"--workdir={tmp_path}/more"]
    more[more.index(f"--init=hf:{tmp_path}/peer")] = f"--init={tmp_path}/back"
    assert finetune.main(more) == 0


@pytest.mark.slow
def test_an_imported_model_transcribes(tmp_path, capsys):
    write_peer(tmp_path / "peer", byte_whisper())
    assert convert.main([f"hf:{tmp_path}/peer", f"{tmp_path}/run"]) == 0
    [clip] = write_clips(tmp_path, 1)
    capsys.readouterr()
    for init in (f"hf:{tmp_path}/peer", f"{tmp_path}/run"):
        assert transcribe.main([f"--init={init}", clip, "--language=de"]) == 0
    first, second = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert first == second
