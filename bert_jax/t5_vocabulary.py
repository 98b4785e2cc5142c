"""The vocabulary of a T5: a SentencePiece model, then sentinels that stand for what is left out of a text."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sentencepiece
from etils import epath

from bert_jax.tokenizer import SPECIAL_PIECES, Tokenizer
from bert_jax.unigram_files import SENTINEL, is_unigram, sentencepiece_of
from core_jax.atomic_files import write_atomically
from core_jax.config import require
from core_jax.errors import UserError

MODEL, SETTINGS = "spiece.model", "tokenizer_config.json"
LIBRARY = "tokenizer.json"  # what newer versions of `transformers` write in place of the model
CLASS = "T5Tokenizer"  # of `transformers`; older files have T5TokenizerFast
SENTINELS = 100  # where the settings do not say
ROWS = "model_vocab_size"  # our name, in the settings, of how many ids the model has: often more than there are pieces
END = "</s>"


class T5Vocabulary(Tokenizer):
    """Text as in the `T5Tokenizer` of `transformers`: a literal <extra_id_0> is that sentinel.

    Translations start from the piece that fills up.

    Source: Raffel et al. 2020, sections 2.2 and 3.1.4, https://arxiv.org/abs/1910.10683
    """

    needed = SPECIAL_PIECES[:2]

    def __init__(self, files: Mapping[str, bytes]):
        """Reads it from the contents of its files, by name; that of settings may be absent."""
        settings = json.loads(files.get(SETTINGS, b"{}"))
        self._model, self._sentinels = files[MODEL], int(settings.get("extra_ids", SENTINELS))
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=self._model)
        processor, self._own = self._processor, self._processor.get_piece_size()
        pieces = [processor.id_to_piece(index) for index in range(self._own)]
        require(END in pieces, f"the vocabulary of {len(pieces)} pieces lacks {END}; expected that of a T5")
        pieces += [f"<extra_id_{number}>" for number in reversed(range(self._sentinels))]
        rows = int(settings.get(ROWS, len(pieces)))
        require(
            len(pieces) <= rows,
            f"{MODEL} has {self._own} pieces, which are with {self._sentinels} sentinels more than the {rows} of the "
            f"model; expected as many or fewer: extra_ids in {SETTINGS} says how many sentinels there are",
        )
        pieces += [f"[unused{index}]" for index in range(len(pieces), rows)]
        self._sentinel_ids = {piece: index for index, piece in enumerate(pieces) if SENTINEL.fullmatch(piece)}
        kinds = (processor.is_control, processor.is_unknown, processor.is_unused, processor.is_byte)
        ordinary = np.array([i < self._own and not any(kind(i) for kind in kinds) for i in range(rows)], bool)
        continues = np.array([not piece.startswith("▁") for piece in pieces], bool)
        super().__init__(pieces, ordinary, continues & ordinary)
        self.start_id, self.end_id = self.pad_id, pieces.index(END)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._encode_one(text) for text in texts]

    def _encode_one(self, text):
        found = []
        for part in SENTINEL.split(text):
            known = self._sentinel_ids.get(part)
            found += self._processor.encode(part) if known is None else [known]
        return found

    def encode_with_places(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Nothing: places are for labels of tokens, which a translator does not give.

        Raises:
          UserError: always.
        """
        raise UserError("the vocabulary of a translator does not tell where its pieces stand; expected that of a BERT")

    def decode(self, ids: Sequence[int]) -> str:
        """The text that token ids stand for; special tokens, sentinels and unknown pieces are left out."""
        special = {self.pad_id, self.unknown_id, self.end_id}
        return self._processor.decode([index for index in map(int, ids) if index < self._own and index not in special])

    def model_proto(self) -> bytes:
        """The content of spiece.model."""
        return self._model

    def save(self, directory: epath.PathLike) -> None:
        """Writes spiece.model and tokenizer_config.json."""
        folder = epath.Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self._serialized().items():
            write_atomically(folder / name, content)

    def _serialized(self) -> dict[str, bytes]:
        named = {"pad_token": self.pad_id, "unk_token": self.unknown_id, "eos_token": self.end_id}
        settings: dict[str, Any] = {name: self.piece(index) for name, index in named.items()}
        settings |= {"tokenizer_class": CLASS, "extra_ids": self._sentinels, ROWS: self.vocab_size}
        return {MODEL: self._model, SETTINGS: json.dumps(settings, indent=2).encode()}


def is_t5(folder: epath.Path) -> bool:
    """Whether a folder holds the vocabulary of a T5, by its settings or the config.json of the model beside it."""
    named = ((SETTINGS, "tokenizer_class", CLASS), ("config.json", "model_type", "t5"))
    if not any(str(_content(folder / name).get(field)).startswith(wanted) for name, field, wanted in named):
        return False
    return (folder / MODEL).exists() or is_unigram(_content(folder / LIBRARY))


def _content(file):
    """The fields of a JSON file; none where there are none: what is wrong with it, its reader says."""
    try:
        content = json.loads(file.read_text()) if file.exists() else {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def read_t5_vocabulary(folder: epath.PathLike, rows: int | None = None) -> T5Vocabulary:
    """Reads the files of a folder.

    Args:
      folder: that holds them.
      rows: ids that the model has; by default as the settings say, or as many as there are pieces.
    Raises:
      UserError: one is missing, or they do not fit.
    """
    place = epath.Path(folder)
    require(
        (place / MODEL).exists() or (place / LIBRARY).exists(),
        f"{folder} has no {MODEL} and no {LIBRARY}; expected the vocabulary of a T5 in it",
    )
    settings = json.loads((place / SETTINGS).read_text()) if (place / SETTINGS).exists() else {}
    settings |= {} if rows is None else {ROWS: rows}
    if (place / MODEL).exists():
        return T5Vocabulary({MODEL: (place / MODEL).read_bytes(), SETTINGS: json.dumps(settings).encode()})
    try:
        model, sentinels = sentencepiece_of(json.loads((place / LIBRARY).read_text()))
    except UserError as error:
        raise UserError(f"{place / LIBRARY}: {error}") from None
    return T5Vocabulary({MODEL: model, SETTINGS: json.dumps(settings | {"extra_ids": sentinels}).encode()})


def from_model(model: bytes, sentinels: int = 0) -> T5Vocabulary:
    """The vocabulary of the content of a SentencePiece *.model, with so many sentinels."""
    return T5Vocabulary({MODEL: model, SETTINGS: json.dumps({"extra_ids": sentinels}).encode()})


def as_t5(tokenizer: Tokenizer) -> T5Vocabulary:
    """A vocabulary as `transformers` reads it beside a T5.

    Raises:
      UserError: it is of another kind.
    """
    if not isinstance(tokenizer, T5Vocabulary):
        raise UserError(
            f"a vocabulary of kind {type(tokenizer).__name__}: expected that of a T5 ({MODEL}), as `transformers` has "
            "its ids of special pieces fixed; train with --tokenizer=sentencepiece-t5 to write one"
        )
    return tokenizer
