"""Text to token ids and back, behind one interface: WordPiece as in BERT, byte-level BPE as in GPT-2."""

import abc
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tokenizers
from etils import epath
from jaxtyping import Bool, Int32

from core_jax.atomic_files import write_atomically
from core_jax.errors import UserError

SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # their ids in the vocabularies trained here: 0 to 4
ALIASES = {"[PAD]": "<pad>", "[UNK]": "<unk>", "[CLS]": "<cls>", "[SEP]": "<sep>", "[MASK]": "<mask>"}
END_OF_TEXT = "<|endoftext|>"  # the only special piece of GPT-2
NORMALIZER_SETTINGS = {  # of a tokenizer_config.json -> of the normalizer
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
UNUSED_PIECE = re.compile(r"\[unused\d+\]")


class Tokenizer(abc.ABC):
    """A fixed vocabulary and the way to cut text into its pieces.

    Attributes:
      vocab_size: number of ids.
      pad_id, unknown_id, cls_id, sep_id, mask_id: ids of the special pieces; -1 where a vocabulary of GPT has none.
      start_id: id of the piece that stands in front of a text: [CLS], or GPT-2's <|endoftext|>.
      end_id: id of the piece that stands behind it, or between two: [SEP], or the same of GPT-2.
      ordinary_ids: ids that a random replacement may draw: no special, control, byte or unused pieces.
      continues_word: for each id, whether its piece goes on with the word of the piece before it.
    """

    needed: ClassVar[tuple[str, ...]] = SPECIAL_PIECES  # special pieces that every vocabulary of the kind has

    def __init__(self, pieces: Sequence[str], ordinary: Bool[np.ndarray, " V"], continues_word: Bool[np.ndarray, " V"]):
        ids = {piece: index for index, piece in enumerate(pieces)}
        names = (*SPECIAL_PIECES, END_OF_TEXT)
        found = {name: ids.get(name, ids.get(ALIASES.get(name, name), -1)) for name in names}
        if missing := [name for name in self.needed if found[name] < 0]:
            raise UserError(
                f"the vocabulary of {len(pieces)} pieces lacks {', '.join(missing)}; expected all of "
                f"{', '.join(self.needed)}. Choose a vocabulary made for "
                f"{'GPT-2' if END_OF_TEXT in self.needed else 'BERT'}, or let one be trained"
            )
        self.vocab_size = len(pieces)
        self.pad_id, self.unknown_id, self.cls_id, self.sep_id, self.mask_id, end = found.values()
        self.start_id, self.end_id = (end, end) if END_OF_TEXT in self.needed else (self.cls_id, self.sep_id)
        self._pieces = list(pieces)
        self._special_ids = {name: index for name, index in found.items() if index >= 0 and name in self.needed}
        self._special_in_text = re.compile("(" + "|".join(map(re.escape, self._special_ids)) + ")")
        is_special = np.zeros(len(pieces), bool)
        is_special[list(self._special_ids.values())] = True
        unused = np.array([bool(UNUSED_PIECE.fullmatch(piece)) for piece in pieces])
        self.ordinary_ids: Int32[np.ndarray, " N"] = np.flatnonzero(ordinary & ~is_special & ~unused).astype(np.int32)
        self.continues_word: Bool[np.ndarray, " V"] = continues_word & ~is_special
        # True of a few foreign vocabularies, in which text can spell a special piece.
        special = set(self._special_ids.values()) - {self.unknown_id}
        self._text_spells_special = any(special.intersection(ids) for ids in self._encode(list(self._special_ids)))

    @abc.abstractmethod
    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without added special tokens."""

    @abc.abstractmethod
    def encode_with_places(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Token ids of each text, and where each token stands in it: its first character and the one after its last."""

    @abc.abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text that token ids stand for, special tokens as `[MASK]` and so on."""

    @abc.abstractmethod
    def save(self, directory: epath.PathLike) -> None:
        """Writes the files that `load_tokenizer` reads back, each atomically, into a folder that it makes."""

    @abc.abstractmethod
    def _serialized(self) -> Any:
        """The whole tokenizer, as the class takes it."""

    def __reduce__(self):  # the libraries' own pickling loses settings
        return type(self), (self._serialized(),)

    def encode(self, texts: Sequence[str], *, allow_special: bool = False) -> list[list[int]]:
        """Cuts texts into pieces, in parallel over the texts.

        Args:
          texts: any text; no special tokens are added to it.
          allow_special: whether a literal "[MASK]" in a text (or another special piece) means that token. In a corpus
            it is text like any other.
        Returns:
          Token ids of each text.
        """
        if allow_special:
            return [self._encode_with_special(text) for text in texts]
        encoded = self._encode(texts)
        if self._text_spells_special:
            special = set(self._special_ids.values())
            encoded = [[self.unknown_id if index in special else index for index in ids] for ids in encoded]
        return encoded

    def _encode_with_special(self, text: str) -> list[int]:
        parts = self._special_in_text.split(text)  # special pieces are at the odd places
        encoded = self.encode(parts)
        return [
            index
            for place, (part, ids) in enumerate(zip(parts, encoded, strict=True))
            for index in ([self._special_ids[part]] if place % 2 else ids)
        ]

    @property
    def targets(self) -> "Tokenizer":
        """What cuts texts that are translated into; another only where two languages are cut by models of their own."""
        return self

    def piece(self, index: int) -> str:
        """The piece that a token id stands for."""
        return self._pieces[index]


class LibraryTokenizer(Tokenizer):
    """What Hugging Face's `tokenizers` computes."""

    def __init__(self, tokenizer: tokenizers.Tokenizer | bytes):
        if isinstance(tokenizer, bytes):
            tokenizer = tokenizers.Tokenizer.from_buffer(tokenizer)
        self._tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True  # a literal "[SEP]" in a text is text
        vocabulary = tokenizer.get_vocab()
        pieces = [""] * (max(vocabulary.values(), default=-1) + 1)  # ids of a file may have gaps
        for piece, index in vocabulary.items():
            pieces[index] = piece
        added = tokenizer.get_added_tokens_decoder()
        ordinary = np.array([bool(piece) for piece in pieces], bool)
        ordinary[[index for index, token in added.items() if token.special]] = False
        super().__init__(pieces, ordinary, np.array([self._continues(piece) for piece in pieces], bool))

    @abc.abstractmethod
    def _continues(self, piece: str) -> bool:
        """Whether a piece goes on with the word before it."""

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_with_places(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Token ids of each text, and where each token stands in it."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [(encoding.ids, encoding.offsets) for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """The text that token ids stand for, special tokens included."""
        return self._tokenizer.decode([int(index) for index in ids], skip_special_tokens=False)

    def _serialized(self) -> bytes:
        return self._tokenizer.to_str().encode()


class WordPiece(LibraryTokenizer):
    """WordPiece after the basic tokenisation of BERT: clean, lower-case, split at spaces, punctuation and Chinese.

    Source: Devlin et al. 2019, https://arxiv.org/abs/1810.04805; the implementation is Hugging Face's `tokenizers`.
    """

    def _continues(self, piece: str) -> bool:
        prefix = self._tokenizer.model.continuing_subword_prefix  # pyright: ignore[reportAttributeAccessIssue]
        return len(piece) > len(prefix) and piece.startswith(prefix)

    @classmethod
    def from_vocabulary(
        cls, pieces: Sequence[str], *, lowercase: bool, strip_accents: bool | None = None, split_chinese: bool = True
    ) -> "WordPiece":
        """Builds the tokenizer of BERT from its vocabulary.

        Args:
          pieces: the vocabulary, in the order of ids; pieces that continue a word start with ##.
          lowercase: whether text is lower-cased first.
          strip_accents: whether accents are removed; None: where text is lower-cased.
          split_chinese: whether each Chinese character is a word of its own.
        Returns:
          The tokenizer.
        Raises:
          UserError: a special piece is missing.
        """
        vocabulary = {piece: index for index, piece in enumerate(pieces)}
        tokenizer = tokenizers.Tokenizer(
            tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100)
        )
        tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
            lowercase=lowercase, strip_accents=strip_accents, handle_chinese_chars=split_chinese
        )
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = tokenizers.decoders.WordPiece()
        special = [piece for piece in SPECIAL_PIECES if piece in vocabulary]
        tokenizer.add_special_tokens(special)
        if len(special) == len(SPECIAL_PIECES):  # for other programs that load the saved file
            ends = [(piece, vocabulary[piece]) for piece in ("[SEP]", "[CLS]")]
            tokenizer.post_processor = tokenizers.processors.BertProcessing(*ends)
        return cls(tokenizer)

    def save(self, directory: epath.PathLike) -> None:
        """Writes vocab.txt, tokenizer_config.json and tokenizer.json, which other programs read, too."""
        folder = epath.Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "vocab.txt", "".join(piece + "\n" for piece in self._pieces))
        write_atomically(folder / "tokenizer_config.json", json.dumps(self._settings(), indent=2))
        write_atomically(folder / "tokenizer.json", self._tokenizer.to_str(pretty=True))

    def _settings(self) -> dict[str, Any]:
        """From which other programs make the normalizer anew; one of another kind they must take as it is."""
        normalizer: Any = self._tokenizer.normalizer
        if isinstance(normalizer, tokenizers.normalizers.BertNormalizer):
            settings = {name: getattr(normalizer, ours) for name, ours in NORMALIZER_SETTINGS.items()}
            return {"tokenizer_class": "BertTokenizer", **settings}
        special = {f"{name.strip('[]').lower()}_token": self.piece(index) for name, index in self._special_ids.items()}
        return {"tokenizer_class": "PreTrainedTokenizerFast", **special}

    def with_settings(self, settings: Mapping[str, Any]) -> "WordPiece":
        """The tokenizer as a tokenizer_config.json wants it, which other programs believe rather than tokenizer.json.

        Args:
          settings: of that file; those that are absent stay.
        """
        normalizer: Any = self._tokenizer.normalizer
        given = {ours: settings[name] for name, ours in NORMALIZER_SETTINGS.items() if name in settings}
        if not given or not isinstance(normalizer, tokenizers.normalizers.BertNormalizer):
            return self
        kept = {name: getattr(normalizer, name) for name in ("clean_text", *NORMALIZER_SETTINGS.values())}
        changed = tokenizers.Tokenizer.from_buffer(self._serialized())
        changed.normalizer = tokenizers.normalizers.BertNormalizer(**kept | given)
        return WordPiece(changed)

    def filled_up(self, rows: int) -> "WordPiece":
        """The tokenizer with an unused piece for every id below `rows` that has none.

        Tables of pretrained models are often longer than their vocabulary, so that their size is a round number.
        """
        content = json.loads(self._serialized())
        vocabulary = content["model"]["vocab"]
        pieces = [*self._pieces, *[""] * (rows - len(self._pieces))]
        for index in (index for index, piece in enumerate(pieces) if not piece):
            number = index
            while f"[unused{number}]" in vocabulary:
                number += rows
            vocabulary[f"[unused{number}]"] = index
        return WordPiece(json.dumps(content).encode())


class ByteLevelBpe(LibraryTokenizer):
    """Byte-pair encoding of bytes: it can spell every text, to the byte, and gives it back unchanged.

    Source: Radford et al. 2019, section 2.2; the implementation is Hugging Face's `tokenizers`.
    """

    needed = (END_OF_TEXT,)

    def __init__(self, tokenizer: tokenizers.Tokenizer | bytes):
        super().__init__(tokenizer)
        self.pad_id = self.end_id  # which counts nothing where it fills up

    @classmethod
    def from_model(cls, model: tokenizers.models.BPE) -> "ByteLevelBpe":
        """Builds the tokenizer of GPT-2 from its pieces and merges."""
        tokenizer = tokenizers.Tokenizer(model)
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        tokenizer.add_special_tokens([END_OF_TEXT])
        return cls(tokenizer)

    def _continues(self, piece: str) -> bool:
        return not piece.startswith("Ġ")  # which stands for a space

    def save(self, directory: epath.PathLike) -> None:
        """Writes tokenizer.json and tokenizer_config.json, which other programs read, too."""
        folder = epath.Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        ends = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
        config = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, **ends}
        write_atomically(folder / "tokenizer_config.json", json.dumps(config, indent=2))
        write_atomically(folder / "tokenizer.json", self._tokenizer.to_str(pretty=True))
