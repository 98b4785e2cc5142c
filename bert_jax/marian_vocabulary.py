"""The vocabulary of a Marian: a SentencePiece model of each language cuts text, one table numbers the pieces."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sentencepiece
from etils import epath

from bert_jax.sentencepiece_tokenizer import SentencePiece
from bert_jax.tokenizer import SPECIAL_PIECES, Tokenizer
from core_jax.atomic_files import write_atomically
from core_jax.config import require
from core_jax.errors import UserError

SOURCE, TARGET, TABLE, SETTINGS = "source.spm", "target.spm", "vocab.json", "tokenizer_config.json"
SPECIALS = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}  # names in SETTINGS, pieces without it
START = "bos_token"  # of which `transformers` makes no use: it starts from a piece that config.json names


class MarianVocabulary(Tokenizer):
    """Text as in the `MarianTokenizer` of `transformers` without sacremoses: punctuation stays as it is.

    `encode` cuts the language that is translated from, `targets.encode` that which is translated into; `decode` writes
    the latter. A piece that the table lacks is unknown; a language such as >>fr<< in front of a text is one piece.

    Source: Junczys-Dowmunt et al. 2018, https://arxiv.org/abs/1804.00344, and that class.
    """

    needed = SPECIAL_PIECES[:2]

    def __init__(self, files: Mapping[str, bytes]):
        """Reads it from the contents of its files, by name; that of settings may be absent."""
        self._files = {name: files[name] for name in (SOURCE, TARGET, TABLE, SETTINGS) if name in files}
        self._ids: dict[str, int] = json.loads(files[TABLE])
        pieces = sorted(self._ids, key=self._ids.__getitem__)
        require(
            [self._ids[piece] for piece in pieces] == list(range(len(pieces))),
            f"the ids of {TABLE} are not 0 to {len(pieces) - 1}, each once; expected one of every piece",
        )
        named = {name: _content(piece) for name, piece in json.loads(files.get(SETTINGS, b"{}")).items()}
        special = {name: named.get(name) or piece for name, piece in SPECIALS.items()}
        special[START] = named.get(START) or special["pad_token"]
        lacking = [f"{name} {piece}" for name, piece in special.items() if piece not in self._ids]
        require(not lacking, f"{TABLE} of {len(pieces)} pieces lacks {', '.join(lacking)}; expected all that are named")
        self._unknown = self._ids[special["unk_token"]]
        self._source, self._target = (
            sentencepiece.SentencePieceProcessor(model_proto=files[name]) for name in (SOURCE, TARGET)
        )
        known = {name: self._ids[special[key]] for name, key in zip(SPECIAL_PIECES, SPECIALS, strict=False)}
        renamed = list(pieces)  # the base class looks for its own names
        for name in SPECIAL_PIECES[:2]:
            renamed[known[name]] = name
        ordinary = np.ones(len(pieces), bool)
        ordinary[[self._ids[piece] for piece in special.values()]] = False
        super().__init__(renamed, ordinary, np.array([not piece.startswith("▁") for piece in pieces], bool) & ordinary)
        self._pieces = pieces
        self.start_id, self.end_id = self._ids[special[START]], self._ids[special["eos_token"]]

    @property
    def targets(self) -> "MarianVocabulary":
        """The same for texts of the language that is translated into."""
        return MarianVocabulary({**self._files, SOURCE: self._files[TARGET]})

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        starts = [text.find("<<") + 2 if text.startswith(">>") and "<<" in text else 0 for text in texts]
        encode: Any = self._source.encode  # its types know only one of the texts' kinds of output
        found = encode([text[start:] for text, start in zip(texts, starts, strict=True)], out_type=str)
        pieces = [[text[:start]] * (start > 0) + cut for text, start, cut in zip(texts, starts, found, strict=True)]
        return [[self._ids.get(piece, self._unknown) for piece in row] for row in pieces]

    def encode_with_places(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Nothing: places are for labels of tokens, which a translator does not give.

        Raises:
          UserError: always.
        """
        raise UserError("the vocabulary of a translator does not tell where its pieces stand; expected that of a BERT")

    def decode(self, ids: Sequence[int]) -> str:
        """The text that token ids stand for; special tokens are left out."""
        special = {self.pad_id, self.start_id, self.end_id}
        pieces = [self._pieces[index] for index in map(int, ids) if index not in special]
        return self._target.decode_pieces(pieces).replace("▁", " ").strip()  # of pieces that this side does not know

    def save(self, directory: epath.PathLike) -> None:
        """Writes its files, as they were read."""
        folder = epath.Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self._files.items():
            write_atomically(folder / name, content)

    def _serialized(self) -> dict[str, bytes]:
        return self._files


def read_marian_vocabulary(folder: epath.Path) -> MarianVocabulary:
    """Reads the files of a folder.

    Raises:
      UserError: one is missing, or they do not fit.
    """
    files = {name: folder / name for name in (SOURCE, TARGET, TABLE, SETTINGS)}
    missing = [name for name, file in files.items() if name != SETTINGS and not file.exists()]
    require(not missing, f"{folder} has no {', '.join(missing)}; expected {SOURCE}, {TARGET} and {TABLE} in it")
    return MarianVocabulary({name: file.read_bytes() for name, file in files.items() if file.exists()})


def as_marian(tokenizer: Tokenizer) -> MarianVocabulary:
    """The same pieces with the same ids as `transformers` reads them beside a Marian.

    Raises:
      UserError: they are of another kind than SentencePiece.
    """
    if isinstance(tokenizer, MarianVocabulary):
        return tokenizer
    if not isinstance(tokenizer, SentencePiece):
        raise UserError(f"a vocabulary of kind {type(tokenizer).__name__}: expected SentencePiece, as a Marian has it")
    named = {"pad_token": tokenizer.pad_id, "unk_token": tokenizer.unknown_id, "eos_token": tokenizer.end_id}
    settings: dict[str, Any] = {name: tokenizer.piece(i) for name, i in (named | {START: tokenizer.start_id}).items()}
    settings |= {"tokenizer_class": "MarianTokenizer", "separate_vocabs": False}
    table = {tokenizer.piece(index): index for index in range(tokenizer.vocab_size)}
    model = tokenizer.model_proto()
    return MarianVocabulary(
        {SOURCE: model, TARGET: model, TABLE: json.dumps(table).encode(), SETTINGS: json.dumps(settings).encode()}
    )


def _content(piece: Any) -> Any:
    return piece.get("content") if isinstance(piece, dict) else piece
