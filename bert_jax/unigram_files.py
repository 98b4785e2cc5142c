"""A SentencePiece model from a tokenizer.json of kind Unigram, which newer `transformers` write in its place.

Scores, normalisation and the treatment of spaces are the same there, so that the model cuts texts into the same pieces.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bert_jax import sentencepiece_messages
from bert_jax.sentencepiece_messages import ModelProto, PieceType
from core_jax.config import require

UNIGRAM = "Unigram"
SENTINEL = re.compile(r"(<extra_id_\d+>)")
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
SPACES = ("Strip", "Replace")  # what a SentencePiece does with spaces, as normalizers of their own


def is_unigram(content: Any) -> bool:
    """Whether the content of a tokenizer.json is of this kind."""
    model = content.get("model") if isinstance(content, dict) else None
    return isinstance(model, dict) and model.get("type") == UNIGRAM


def sentencepiece_of(content: Mapping[str, Any]) -> tuple[bytes, int]:
    """What a spiece.model would hold.

    Args:
      content: of a tokenizer.json.
    Returns:
      The model without sentinels, and how many of those stand behind its pieces.
    Raises:
      UserError: it is of another kind, normalises in another way, or its sentinels stand elsewhere.
    """
    require(is_unigram(content), f"a tokenizer.json of another kind than {UNIGRAM}")
    model, added = content["model"], content.get("added_tokens") or []
    pieces = [(str(piece), float(score)) for piece, score in model["vocab"]]
    while pieces and SENTINEL.fullmatch(pieces[-1][0]):
        pieces.pop()
    require(
        not any(SENTINEL.fullmatch(piece) for piece, _ in pieces), "sentinels stand among the pieces, not behind them"
    )
    sentinels = {token["content"]: token["id"] for token in added if SENTINEL.fullmatch(token["content"])}
    for name, index in sentinels.items():
        wanted = len(pieces) + len(sentinels) - 1 - int(re.sub(r"\D", "", name))
        require(index == wanted, f"{name} has the id {index}; expected {wanted}: sentinels end with <extra_id_0>")
    special = {token["id"] for token in added if token.get("special")}
    return _model(pieces, model.get("unk_id"), special, _characters(content.get("normalizer"))), len(sentinels)


def _model(pieces: Sequence[tuple[str, float]], unknown: int | None, special: set[int], characters: bytes) -> bytes:
    require(
        isinstance(unknown, int) and 0 <= unknown < len(pieces),
        f"its unk_id is {unknown}; expected the number of one of its {len(pieces)} pieces",
    )
    made = ModelProto()
    for index, (piece, score) in enumerate(pieces):
        byte, control = BYTE.fullmatch(piece), index in special
        kind = PieceType.BYTE if byte else PieceType.CONTROL if control else PieceType.NORMAL
        made.pieces.add(piece=piece, score=score, type=PieceType.UNKNOWN if index == unknown else kind)
    made.trainer_spec.model_type = sentencepiece_messages.UNIGRAM
    made.trainer_spec.vocab_size = len(pieces)
    made.trainer_spec.byte_fallback = any(piece.type == PieceType.BYTE for piece in made.pieces)
    made.normalizer_spec.precompiled_charsmap = characters
    return made.SerializeToString()


def _characters(normalizer: Any) -> bytes:
    """The table of characters that stand for others."""
    if not normalizer:
        return b""
    parts = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    tables = [base64.b64decode(part["precompiled_charsmap"]) for part in parts if part["type"] == "Precompiled"]
    unlike = [part["type"] for part in parts if part["type"] not in ("Precompiled", *SPACES)]
    require(
        not unlike and len(tables) < 2, f"its normalizer has {', '.join(unlike) or 'two tables'}; expected one table"
    )
    return tables[0] if tables else b""
