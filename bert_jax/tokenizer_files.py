"""Reads tokenizers: those that `save` wrote, of Hugging Face models, and plain vocabularies."""

import json
from typing import Any

import tokenizers
from etils import epath

from bert_jax.marian_vocabulary import SOURCE, read_marian_vocabulary
from bert_jax.sentencepiece_tokenizer import SentencePiece
from bert_jax.t5_vocabulary import is_t5, read_t5_vocabulary
from bert_jax.tokenizer import (
    END_OF_TEXT,
    SPECIAL_PIECES,
    UNUSED_PIECE,
    ByteLevelBpe,
    Tokenizer,
    WordPiece,
)
from core_jax.config import require
from core_jax.errors import UserError

BYTE_LEVEL = "byte-level BPE"
LIBRARY_KINDS = {"WordPiece": WordPiece, BYTE_LEVEL: ByteLevelBpe}  # of a tokenizer.json


def load_tokenizer(path: epath.PathLike) -> Tokenizer:
    """Reads a tokenizer.

    Args:
      path: a folder (written by `save`, or of a Hugging Face model, a Marian or T5 too), or a vocab.txt, tokenizer.json
        or *.model file, or GPT-2's vocab.json with its merges.txt beside it.
    Returns:
      The tokenizer. From a vocab.txt it lower-cases unless the vocabulary holds capitals or the tokenizer_config.json
      beside it says otherwise.
    Raises:
      UserError: no such file, a file of another kind, or a special piece is missing.
    """
    file = epath.Path(path).expanduser()
    if file.is_dir() and not ((file / SOURCE).exists() or is_t5(file)):
        file = _file_in(file)
    if not file.exists():
        raise UserError(
            f"no tokenizer at {file}: expected a folder, a vocab.txt, a tokenizer.json or a SentencePiece *.model file"
        )
    try:
        if file.is_dir():
            return read_marian_vocabulary(file) if (file / SOURCE).exists() else read_t5_vocabulary(file)
        if file.suffix == ".json":
            return _load_merges(file) if file.name == "vocab.json" else _load_json(file)
        return SentencePiece(file.read_bytes()) if file.suffix == ".model" else _load_vocabulary(file)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"{file} is not a tokenizer file: {error}. Expected one vocabulary piece a line in a vocab.txt, "
            "the JSON of Hugging Face tokenizers in a tokenizer.json, or a SentencePiece *.model"
        ) from error


def _file_in(folder: epath.Path) -> epath.Path:
    candidates = [folder / "tokenizer.json", folder / "vocab.txt", *sorted(folder.glob("*.model"))]
    candidates.append(folder / "vocab.json")
    found = [file for file in candidates if file.exists()]
    # An ALBERT folder also holds a tokenizer.json, but of a kind that is not read; its *.model is.
    if len(found) > 1 and found[0].suffix == ".json" and _model_type(found[0]) not in LIBRARY_KINDS:
        found = found[1:]
    if not found:
        raise UserError(
            f"no tokenizer in the folder {folder}: expected a tokenizer.json, vocab.txt, *.model or vocab.json in it"
        )
    return found[0]


def _model_type(file: epath.Path) -> str:
    content = json.loads(file.read_text())
    model = content.get("model") if isinstance(content, dict) else None
    found = str(model.get("type")) if isinstance(model, dict) else "none"
    return BYTE_LEVEL if found == "BPE" and '"ByteLevel"' in json.dumps(content.get("pre_tokenizer")) else found


def _load_json(file: epath.Path) -> Tokenizer:
    if (found := _model_type(file)) not in LIBRARY_KINDS:
        raise UserError(
            f"its model is of type {found}; expected WordPiece or {BYTE_LEVEL}. Choose a SentencePiece *.model or a "
            "vocab.txt"
        )
    try:
        tokenizer = LIBRARY_KINDS[found](tokenizers.Tokenizer.from_str(file.read_text()))
        return tokenizer.with_settings(_settings_beside(file)) if isinstance(tokenizer, WordPiece) else tokenizer
    except UserError:
        raise
    except Exception as error:  # the only class that `tokenizers` raises
        raise ValueError(str(error)) from error


def _settings_beside(file: epath.Path) -> dict[str, Any]:
    beside = file.with_name("tokenizer_config.json")
    settings = json.loads(beside.read_text()) if beside.exists() else {}
    require(isinstance(settings, dict), f"{beside.name} beside it holds no fields; expected a JSON object of settings")
    return settings


def _load_merges(file: epath.Path) -> Tokenizer:
    merges = file.with_name("merges.txt")
    if not merges.exists():
        raise UserError(f"there is no merges.txt beside it; expected both files of GPT-2's vocabulary in {file.parent}")
    lines = [line.split(" ") for line in merges.read_text().split("\n") if line and not line.startswith("#version")]
    if any(len(line) != 2 for line in lines):
        raise ValueError("a line of merges.txt is no pair of pieces")
    vocabulary = json.loads(file.read_text())
    if END_OF_TEXT not in vocabulary:  # the library would add it, under an id that another piece may have
        raise UserError(
            f"the vocabulary of {len(vocabulary)} pieces lacks {END_OF_TEXT}; expected that of GPT-2, or let one be "
            "trained"
        )
    try:
        model = tokenizers.models.BPE(vocabulary, [(first, second) for first, second in lines])
        return ByteLevelBpe.from_model(model)
    except UserError:
        raise
    except Exception as error:  # the only class that `tokenizers` raises
        raise ValueError(str(error)) from error


def _load_vocabulary(file: epath.Path) -> WordPiece:
    pieces = file.read_text().rstrip("\n").split("\n")
    ordinary = (piece for piece in pieces if not (piece in SPECIAL_PIECES or UNUSED_PIECE.fullmatch(piece)))
    lowercase = not any(character.isupper() for piece in ordinary for character in piece)
    config = _settings_beside(file)
    return WordPiece.from_vocabulary(
        pieces,
        lowercase=config.get("do_lower_case", lowercase),
        strip_accents=config.get("strip_accents"),
        split_chinese=config.get("tokenize_chinese_chars", True),
    )
