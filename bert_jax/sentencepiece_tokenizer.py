"""SentencePiece behind the interface of all tokenizers."""

import itertools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import sentencepiece
from etils import epath

from bert_jax.tokenizer import Tokenizer
from core_jax.atomic_files import write_atomically
from core_jax.text_files import characters_before


class SentencePiece(Tokenizer):
    """SentencePiece: unigram or BPE pieces of raw text, in which ▁ stands for a space.

    Source: Kudo and Richardson 2018, https://arxiv.org/abs/1808.06226.
    """

    def __init__(self, model: bytes):
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        processor, ids = self._processor, range(self._processor.get_piece_size())
        kinds = (processor.is_control, processor.is_unknown, processor.is_unused, processor.is_byte)
        pieces = [processor.id_to_piece(index) for index in ids]
        not_text = np.array([any(kind(index) for kind in kinds[:3]) for index in ids], bool)
        is_byte = np.array([processor.is_byte(index) for index in ids], bool)
        starts = np.array([piece.startswith("▁") for piece in pieces], bool)
        super().__init__(pieces, ~not_text & ~is_byte, ~not_text & ~starts)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        # The same switch as of `tokenizers`: where several processes share a machine, each has one thread.
        threads = 1 if os.environ.get("TOKENIZERS_PARALLELISM") == "false" else -1
        return self._processor.encode(list(texts), num_threads=threads)

    def encode_with_places(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Token ids of each text, and where each token stands in it."""
        encode: Any = self._processor.encode
        found = [(encode(text, out_type="proto").pieces, characters_before(text)) for text in texts]
        return [([p.id for p in ps], [(before[p.begin], before[p.end]) for p in ps]) for ps, before in found]

    def model_proto(self) -> bytes:
        """The content of a *.model file."""
        return self._processor.serialized_model_proto()

    _serialized = model_proto

    def decode(self, ids: Sequence[int]) -> str:
        """The text that token ids stand for, with special tokens as `[MASK]` and so on."""
        names = {index: name for name, index in self._special_ids.items()}
        parts = []
        for name, run in itertools.groupby(map(int, ids), key=names.get):
            same = list(run)
            parts += [name] * len(same) if name else [self._processor.decode(same)]
        return " ".join(parts)

    def save(self, directory: epath.PathLike) -> None:
        """Writes tokenizer.model."""
        folder = epath.Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "tokenizer.model", self.model_proto())
