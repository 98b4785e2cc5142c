"""A vocabulary of GPT-2's kind without merges: a piece for each byte, and the one that ends texts."""

import tokenizers

from bert_jax.tokenizer import END_OF_TEXT, ByteLevelBpe


def byte_tokenizer() -> ByteLevelBpe:
    pieces = [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), END_OF_TEXT]
    return ByteLevelBpe.from_model(tokenizers.models.BPE({piece: index for index, piece in enumerate(pieces)}, []))
