"""Real sentence pairs from Debian packages, which are installed and never copied: verses, and the dialogues of a game.

What one chapter or one level holds stays in one split: neighbouring sentences repeat each other's words.
"""

import hashlib
import pathlib
import re
import subprocess
from collections.abc import Iterator, Mapping

from core_jax.errors import UserError

Pair = dict[str, str]
SPLITS = {"train": 94, "validation": 3, "test": 3}  # per cent of the chapters or levels
VERSES = ("engWEB2015eb", "spaRV1909eb")  # modules of SWORD, both in the public domain
VERSE_PACKAGES = "sword-text-web sword-text-sparv libsword-utils"
GAME = pathlib.Path("/usr/share/games/fillets-ng/script")  # of Debian's package fillets-ng-data, GPL-2
HEADING = re.compile(r"\$\$\$(.+ \d+):([1-9]\d*)$")  # a verse; verse 0 is what stands before a chapter
LEFT_OUT = re.compile(r"<(note|title)\b[^>]*?(?:/>|>.*?</\1>)", re.DOTALL)
TAG = re.compile(r"<[^>]*>")
SPACED = re.compile(r" ([,.;:!?\u201d\u2019])")  # where a note was left out
DIALOGUE = re.compile(  # name, letters that it is shown in, English, translation
    r'dialogId\("([^"]+)",\s*"([^"]*)",\s*"((?:[^"\\]|\\.)*)"\)\s*dialogStr\("((?:[^"\\]|\\.)*)"\)'
)


def verses() -> dict[str, list[Pair]]:
    """English and Spanish verses, dealt into splits by chapter.

    Raises:
      UserError: the packages are not installed.
    """
    english, spanish = (dict(_verses_of(module)) for module in VERSES)
    pairs = {key: {"source": english[key], "target": spanish[key]} for key in english if key in spanish}
    return deal({key: pair for key, pair in pairs.items() if all(pair.values())})


def dialogues(language: str, folder: pathlib.Path = GAME) -> dict[str, list[Pair]]:
    """English sentences of a game and their translations, dealt into splits by level.

    Args:
      language: into which, such as de.
      folder: that holds one of each level.
    Raises:
      UserError: the package is not installed, or has no such language.
    """
    files = sorted(folder.glob(f"*/dialogs_{language}.lua"))
    if not files:
        there = sorted({file.stem.removeprefix("dialogs_") for file in folder.glob("*/dialogs_*.lua")})
        raise UserError(
            f"no dialogues in {language!r} in {folder}: "
            + (f"expected one of {', '.join(there)}" if there else "install Debian's package fillets-ng-data")
        )
    pairs = {}
    for file in files:
        for name, _, source, target in DIALOGUE.findall(file.read_text(encoding="utf-8")):
            pair = {"source": spoken(source), "target": spoken(target)}
            if all(pair.values()):
                pairs[file.parent.name, name] = pair
    return deal(pairs)


def deal(pairs: Mapping[tuple[str, str], Pair], text: str = "source") -> dict[str, list[Pair]]:
    """Pairs, or other records, by split.

    A text that another split has already is left out of the later one: games and psalms repeat themselves.

    Args:
      pairs: by the name of what stays together, and their place in it.
      text: the column that no two splits share.
    """
    shares, splits, seen = list(SPLITS.items()), {name: [] for name in SPLITS}, {}
    for (group, _), pair in pairs.items():
        place = int(hashlib.sha256(group.encode()).hexdigest(), 16) % 100
        name = next(name for i, (name, _) in enumerate(shares) if place < sum(share for _, share in shares[: i + 1]))
        if seen.setdefault(pair[text], name) == name:
            splits[name].append(pair)
    return splits


def _verses_of(module) -> Iterator[tuple[tuple[str, str], str]]:
    """(chapter, verse) and text of each verse."""
    install = f"install Debian's packages {VERSE_PACKAGES}"
    try:
        found = subprocess.run(["mod2imp", module], capture_output=True, check=False)
    except FileNotFoundError:
        raise UserError(f"there is no command mod2imp: {install}") from None
    if not found.stdout:
        raise UserError(f"mod2imp finds no module {module}: {install}")
    place: tuple[str, str] | None = None
    for line in found.stdout.decode("utf-8").split("\n"):
        if line.startswith("$$$"):
            heading = HEADING.match(line)
            place = (heading[1], heading[2]) if heading else None
        elif place is not None and line.strip():
            text = " ".join(TAG.sub("", LEFT_OUT.sub(" ", line)).split())
            yield place, SPACED.sub(r"\1", text)
            place = None


def spoken(text: str) -> str:
    """A sentence as a script has it, without escapes and line breaks."""
    return " ".join(re.sub(r"\\(.)", r"\1", text).split())
