"""Reads tokenizers: those that `save` wrote, of Hugging Face models, and plain vocabularies."""

import json

import tokenizers
from etils import epath

from bert_jax.tokenizer import SPECIAL_PIECES, UNUSED_PIECE, SentencePiece, Tokenizer, WordPiece
from core_jax.errors import UserError


def load_tokenizer(path: epath.PathLike) -> Tokenizer:
    """Reads a tokenizer.

    Args:
      path: a folder (written by `save`, or of a Hugging Face model), or a vocab.txt, tokenizer.json or *.model file.
    Returns:
      The tokenizer. From a vocab.txt it lower-cases unless the vocabulary holds capitals or the tokenizer_config.json
      beside it says otherwise.
    Raises:
      UserError: no such file, a file of another kind, or a special piece is missing.
    """
    file = epath.Path(path).expanduser()
    if file.is_dir():
        file = _file_in(file)
    if not file.exists():
        raise UserError(
            f"no tokenizer at {file}: expected a folder, a vocab.txt, a tokenizer.json or a SentencePiece *.model file"
        )
    try:
        if file.suffix == ".json":
            return _load_json(file)
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
    found = [file for file in candidates if file.exists()]
    # An ALBERT folder also holds a tokenizer.json, but of another kind than WordPiece; its *.model is what is read.
    if len(found) > 1 and found[0].suffix == ".json" and _model_type(found[0]) != "WordPiece":
        found = found[1:]
    if not found:
        raise UserError(f"no tokenizer in the folder {folder}: expected a tokenizer.json, vocab.txt or *.model in it")
    return found[0]


def _model_type(file: epath.Path) -> str:
    content = json.loads(file.read_text())
    model = content.get("model") if isinstance(content, dict) else None
    return str(model.get("type")) if isinstance(model, dict) else "none"


def _load_json(file: epath.Path) -> WordPiece:
    if (found := _model_type(file)) != "WordPiece":
        raise UserError(
            f"its model is of type {found}; expected WordPiece. Choose a SentencePiece *.model or a vocab.txt"
        )
    try:
        return WordPiece(tokenizers.Tokenizer.from_str(file.read_text()))
    except UserError:
        raise
    except Exception as error:  # the only class that `tokenizers` raises
        raise ValueError(str(error)) from error


def _load_vocabulary(file: epath.Path) -> WordPiece:
    pieces = file.read_text().rstrip("\n").split("\n")
    ordinary = (piece for piece in pieces if not (piece in SPECIAL_PIECES or UNUSED_PIECE.fullmatch(piece)))
    lowercase = not any(character.isupper() for piece in ordinary for character in piece)
    config_file = file.with_name("tokenizer_config.json")
    config = json.loads(config_file.read_text()) if config_file.exists() else {}
    return WordPiece.from_vocabulary(
        pieces,
        lowercase=config.get("do_lower_case", lowercase),
        strip_accents=config.get("strip_accents"),
        split_chinese=config.get("tokenize_chinese_chars", True),
    )
