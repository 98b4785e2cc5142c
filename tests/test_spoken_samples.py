"""Lists of real recordings: whose text is whose, and that no text is in two splits."""

import json

import numpy as np
import pytest
import soundfile

from core_jax.errors import UserError
from core_jax.spoken_samples import spoken_captions, spoken_dialogues
from experiments import sample_recordings

LINE = 'dialogId("{name}", "{font}", "English of {name}.")\ndialogStr("{text}")\n'


def sound(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(160, np.float32), 16_000, format="WAV")


@pytest.fixture
def game(tmp_path):
    """200 levels, each with a sentence of its own, one that all levels have, and one that nobody speaks."""
    for level in range(200):
        lines = ""
        for name, font in ((f"own-{level}", "font_small"), ("both", "font_big"), ("silent", "font_big")):
            text = f'Zin \\"{level}\\".' if name.startswith("own") else "Overal."
            lines += LINE.format(name=name, font=font, text=text)
            if name != "silent":
                sound(tmp_path / "sound" / f"level{level}" / "nl" / f"{name}.ogg")
        script = tmp_path / "script" / f"level{level}" / "dialogs_nl.lua"
        script.parent.mkdir(parents=True)
        script.write_text(lines)
    return tmp_path / "script"


def test_dialogues_have_their_sounds_and_speakers_and_share_no_text(game):
    splits = spoken_dialogues("nl", game)
    records = [one for split in splits.values() for one in split]
    own = {one["audio"]: one for one in records if "own" in one["audio"]}
    assert len(own) == 200
    for path, one in own.items():
        assert one["text"] == f'Zin "{path.rpartition("-")[2].removesuffix(".ogg")}".'
        assert one["speaker"] == "small fish"
    assert all(one["speaker"] == "big fish" for one in records if one["text"] == "Overal.")
    assert not any("silent" in one["audio"] for one in records)
    texts = [{one["text"] for one in split} for split in splits.values()]
    assert all(texts)
    assert sum(map(len, texts)) == len(set.union(*texts))
    with pytest.raises(UserError, match="no spoken dialogues in 'cs'"):
        spoken_dialogues("cs", game)


def test_captions_are_those_of_the_language(tmp_path):
    for name, text in {"cat": "A cat.\nfr.utf8=Un chat.\n", "dog": "A dog.\n", "cow": "A cow.\nfr.utf8=\n"}.items():
        (tmp_path / f"{name}.txt").write_text(text)
        for language in ("fr", "en"):
            sound(tmp_path / f"{name}_desc_{language}.ogg")
    [french] = [one for split in spoken_captions("fr", tmp_path).values() for one in split]
    assert french == {"audio": str(tmp_path / "cat_desc_fr.ogg"), "text": "Un chat."}
    english = [one["text"] for split in spoken_captions("en", tmp_path).values() for one in split]
    assert sorted(english) == ["A cat.", "A cow.", "A dog."]
    with pytest.raises(UserError, match="no captions that are read out in 'de'"):
        spoken_captions("de", tmp_path)


def test_the_command_writes_lists_once(game, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sample_recordings.KINDS, "dialogues", lambda language: spoken_dialogues(language, game))
    assert sample_recordings.main([str(tmp_path / "out")]) == 0
    assert "--task=transcription" in capsys.readouterr().out
    train = (tmp_path / "out" / "train.jsonl").read_text().splitlines()
    assert set(json.loads(train[0])) == {"audio", "text", "speaker"}
    assert sample_recordings.main([str(tmp_path / "out")]) == 0
    for wrong in ("dialogues", "songs-nl"):
        with pytest.raises(UserError, match="expected dialogues-LANGUAGE or captions-LANGUAGE"):
            sample_recordings.main([str(tmp_path / "out"), f"--recordings={wrong}"])
