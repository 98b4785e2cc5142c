"""The vocabulary of a Whisper as its folder keeps it: tokenizer.json, or the older vocab.json and merges.txt."""

import json
import pathlib
import re
from typing import Any

import tokenizers

from core_jax.config import require
from core_jax.errors import UserError

FILE = "tokenizer.json"
PIECES, MERGES, ADDED, SETTINGS = "vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json"
STAMP = re.compile(r"<\|\d+\.\d\d\|>")
NAMED = re.compile(r"<\|.*\|>")  # pieces that are no text


def read_vocabulary(folder: pathlib.Path) -> bytes:
    """The content of a folder's tokenizer.json, which is made where only older files are there.

    Args:
      folder: of a Whisper.
    Raises:
      UserError: neither is there, or the older files are damaged.
    """
    if (folder / FILE).exists():
        return (folder / FILE).read_bytes()
    if not (folder / PIECES).exists():
        raise UserError(f"there is no {FILE} in {folder}, and no {PIECES}; expected the vocabulary of a Whisper")
    require(
        (folder / MERGES).exists(),
        f"there is no {MERGES} beside {folder / PIECES}; expected both files of the vocabulary of a Whisper",
    )
    return _from_parts(folder).to_str().encode()


def _from_parts(folder: pathlib.Path) -> tokenizers.Tokenizer:
    pieces, added = _read_ids(folder / PIECES), _read_ids(folder / ADDED) if (folder / ADDED).exists() else {}
    settings = _read_json(folder / SETTINGS) if (folder / SETTINGS).exists() else {}
    lines = (folder / MERGES).read_text(encoding="utf-8").split("\n")
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    require(
        all(len(merge) == 2 for merge in merges),
        f"{folder / MERGES}: expected two pieces, with a blank between, a line",
    )
    try:
        found = tokenizers.Tokenizer(tokenizers.models.BPE(pieces, [(first, second) for first, second in merges]))
    except Exception as error:  # the only class that `tokenizers` raises
        raise UserError(f"{folder / MERGES} does not fit {PIECES} beside it ({error}): fetch both again") from error
    prefix = bool(settings.get("add_prefix_space", False))
    found.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    found.decoder = tokenizers.decoders.ByteLevel()
    named = {piece: index for piece, index in pieces.items() if NAMED.fullmatch(piece)} | added
    for piece in sorted(named, key=lambda piece: named[piece]):
        special = not STAMP.fullmatch(piece)
        found.add_tokens([tokenizers.AddedToken(piece, special=special, normalized=False)])
    ids = found.get_vocab()
    moved = [f"{piece} {index}" for piece, index in named.items() if ids[piece] != index]
    require(
        not moved,
        f"{folder / ADDED}: expected ids that go on from those of {PIECES} ({len(pieces)} pieces) without a gap; "
        f"these do not: {', '.join(moved[:5])}",
    )
    return found


def _read_ids(file: pathlib.Path) -> dict[str, int]:
    found = _read_json(file)
    whole = all(isinstance(index, int) for index in found.values())
    require(whole, f"{file}: expected a number for each piece")
    return found


def _read_json(file: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}): fetch it again") from error
    require(isinstance(found, dict), f"{file}: expected a JSON object")
    return found
