"""Sound from files, and its spectrogram: the right bands are loud, other rates and channels change nothing."""

import numpy as np
import pytest
import soundfile

from core_jax.errors import UserError
from tests.tiny_whisper import tone
from vit_jax.audio_files import RATE, is_silent, read_audio, whole_seconds
from vit_jax.log_mel import HOP, log_mel, mel_filters


@pytest.mark.parametrize("hertz", [200.0, 1000.0, 4400.0])
def test_a_tone_is_loudest_in_its_band(hertz):
    centers = np.arange(201)[mel_filters(80).argmax(axis=0)] * RATE / 400
    found = log_mel(tone(hertz, 1.0), 80)
    assert found.shape == (RATE // HOP, 80)
    loudest = found[10:-10].mean(axis=0).argmax()
    assert abs(centers[loudest] - hertz) <= 0.06 * hertz + 40
    assert found.max() - found.min() <= 2.0 + 1e-6  # eight powers of ten, divided by four


def test_bands_have_the_same_area():
    areas = mel_filters(40).sum(axis=0) * (RATE / 400)
    np.testing.assert_allclose(areas[20:], 1.0, rtol=0.05)  # where there are frequencies enough to sum over


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 96_000])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_rates_and_channels_change_nothing(tmp_path, rate, suffix):
    if (suffix, rate) == ("ogg", 22_050):
        rate = 24_000
    samples, path = tone(440.0, 0.5, rate), tmp_path / f"tone.{suffix}"
    soundfile.write(path, np.stack([samples, samples], axis=1), rate)
    found, expected = read_audio(path), tone(440.0, 0.5)
    assert abs(len(found) - len(expected)) <= 1
    middle = slice(1000, 7000)
    tolerance = 0.05 if suffix == "ogg" else 2e-3  # which is lossy
    np.testing.assert_allclose(found[middle], expected[middle], atol=tolerance)
    assert not is_silent(found)
    assert is_silent(np.zeros(5, np.float32))


def test_the_peer_hears_the_same():
    transformers = pytest.importorskip("transformers")
    samples = np.random.default_rng(0).standard_normal(3 * RATE).astype(np.float32) * tone(3.0, 3.0)
    for bands in (80, 128):
        extract = transformers.WhisperFeatureExtractor(feature_size=bands)
        expected = extract(samples, sampling_rate=RATE, return_tensors="np").input_features[0].T
        np.testing.assert_allclose(log_mel(np.pad(samples, (0, 27 * RATE)), bands), expected, atol=1e-4)


def test_what_is_no_sound_is_refused(tmp_path):
    soundfile.write(tmp_path / "whole.wav", tone(440.0, 1.0), RATE)
    content = (tmp_path / "whole.wav").read_bytes()
    (tmp_path / "empty.wav").write_bytes(content[:44])
    (tmp_path / "text.wav").write_text("hello")
    soundfile.write(tmp_path / "slow.wav", tone(440.0, 1.0), 1000)
    expected = {
        "nowhere.wav": "there is no file",
        "text.wav": "cannot be read as sound .* no WAV, FLAC, Ogg or MP3",
        "empty.wav": "is cut off or empty: 0 samples",
        "slow.wav": "has 1000 samples a second; expected 4000 to 192000",
    }
    for name, message in expected.items():
        for read in (read_audio, whole_seconds):
            with pytest.raises(UserError, match=message):
                read(tmp_path / name)
    soundfile.write(tmp_path / "broken.wav", np.full(100, np.nan, np.float32), RATE, subtype="FLOAT")
    with pytest.raises(UserError, match="samples that are no numbers"):
        read_audio(tmp_path / "broken.wav")


KINDS = {"wav": {}, "flac": {}, "mp3": {}, "ogg": {}, "aiff": {}, "opus": {"format": "OGG", "subtype": "OPUS"}}


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("share", [0.4, 0.95])
def test_what_is_cut_off_is_refused_also_without_reading_all_of_it(tmp_path, suffix, share):
    noise = 0.3 * np.random.default_rng(0).standard_normal(3 * RATE).astype(np.float32)
    path = tmp_path / f"clip.{suffix}"
    soundfile.write(path, noise, RATE, **KINDS[suffix])
    assert whole_seconds(path) == pytest.approx(3.0)
    assert len(read_audio(path)) == len(noise)
    content = path.read_bytes()
    path.write_bytes(content[: round(len(content) * share)])
    for read in (read_audio, whole_seconds):
        with pytest.raises(UserError, match=rf"clip\.{suffix} .*cut off"):
            read(path)


def test_a_header_that_was_written_before_the_length_was_known_is_believed_to_the_end(tmp_path):
    path, samples = tmp_path / "piped.wav", tone(440.0, 1.0)
    soundfile.write(path, samples, RATE)
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = b"\xff" * 4
    path.write_bytes(content)
    np.testing.assert_allclose(read_audio(path), samples, atol=1e-4)
    assert whole_seconds(path) == 1.0
