"""Real recordings with what is said in them, from Debian packages, which are installed and never copied.

They are the dialogues of a game, and captions of pictures that are read out.
"""

import pathlib

import soundfile

from core_jax.errors import UserError
from core_jax.parallel_samples import DIALOGUE, GAME, deal, spoken

Record = dict[str, str]  # audio: a path, text: what is said, speaker: of dialogues, who says it
STAMPS = pathlib.Path("/usr/share/tuxpaint/stamps")  # of Debian's package tuxpaint-stamps-default, GPL-2
SPEAKERS = {"font_small": "small fish", "font_big": "big fish"}  # in whose letters a sentence is shown


def spoken_dialogues(language: str, folder: pathlib.Path = GAME) -> dict[str, list[Record]]:
    """Sentences of a game, dealt into splits by level.

    Args:
      language: that is spoken, such as nl.
      folder: of the scripts; sounds are beside it.
    Raises:
      UserError: the packages are not installed, or have no such language.
    """
    found: dict[tuple[str, str], Record] = {}
    sounds = folder.parent / "sound"
    for script in sorted(folder.glob(f"*/dialogs_{language}.lua")):
        for name, font, _, text in DIALOGUE.findall(script.read_text(encoding="utf-8")):
            level, sound = script.parent.name, sounds / script.parent.name / language / f"{name}.ogg"
            if spoken(text) and is_heard(sound):
                speaker = SPEAKERS.get(font, "others")
                found[level, name] = {"audio": str(sound), "text": spoken(text), "speaker": speaker}
    if not found:
        raise UserError(
            f"no spoken dialogues in {language!r} below {sounds}: install Debian's packages fillets-ng-data and "
            f"fillets-ng-data-{language}, which there is for nl and cs"
        )
    return deal(found, "text")


def spoken_captions(language: str, folder: pathlib.Path = STAMPS) -> dict[str, list[Record]]:
    """Captions of pictures, dealt into splits by what they say.

    Args:
      language: that is spoken, such as fr.
      folder: with pictures, captions and sounds.
    Raises:
      UserError: the package is not installed, or has no such language.
    """
    found: dict[tuple[str, str], Record] = {}
    for sound in sorted(folder.glob(f"**/*_desc_{language}.ogg")):
        captions = sound.with_name(sound.name.replace(f"_desc_{language}.ogg", ".txt"))
        text = _caption(captions, language)
        if text and is_heard(sound):
            found[text, str(sound)] = {"audio": str(sound), "text": text}
    if not found:
        raise UserError(
            f"no captions that are read out in {language!r} below {folder}: install Debian's package "
            "tuxpaint-stamps-default, and choose fr, ru, es or another language that is spoken there"
        )
    return deal(found, "text")


def is_heard(sound: pathlib.Path) -> bool:
    """Whether there is a recording, and sound in it: some levels' are empty."""
    return sound.is_file() and soundfile.info(sound).frames > 0


def _caption(captions: pathlib.Path, language: str) -> str:
    """A picture's caption: the first line is English, then come those of other languages by their codes."""
    if not captions.is_file():
        return ""
    first, *others = captions.read_text(encoding="utf-8").splitlines() or [""]
    if language == "en":
        return first.strip()
    mark = f"{language}.utf8="
    return next((line.removeprefix(mark).strip() for line in others if line.startswith(mark)), "")
