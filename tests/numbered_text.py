"""Text whose every token is a word of its own, so that tests can tell where a token comes from."""

import numpy as np

from bert_jax.corpus import Corpus, open_corpus
from bert_jax.corpus_building import build_corpus
from bert_jax.tokenizer import SPECIAL_PIECES, WordPiece


def numbered_tokenizer(words: int) -> WordPiece:
    """Pieces w0, w1, ... at the ids 5, 6, ..."""
    return WordPiece.from_vocabulary([*SPECIAL_PIECES, *(f"w{number}" for number in range(words))], lowercase=True)


def numbered_documents(documents: int, seed: int, longest_sentence: int = 40) -> list[list[list[int]]]:
    """Token ids by document and sentence, none twice; every eighth document has one sentence."""
    rng = np.random.default_rng(seed)
    next_id, result = 5, []
    for document in range(documents):
        sentences = []
        for _ in range(1 if document % 8 == 0 else int(rng.integers(2, 12))):
            length = int(rng.integers(1, longest_sentence + 1))
            sentences.append(list(range(next_id, next_id + length)))
            next_id += length
        result.append(sentences)
    return result


def numbered_corpus(folder, documents: list[list[list[int]]]) -> tuple[Corpus, WordPiece]:
    """The documents as a corpus whose training split keeps their order."""
    tokenizer = numbered_tokenizer(documents[-1][-1][-1] - 4)
    texts = ("\n".join(" ".join(f"w{i - 5}" for i in sentence) for sentence in document) for document in documents)
    build_corpus([list(texts)], tokenizer, folder / "corpus", held_out=0.0)
    return open_corpus(folder / "corpus", "train"), tokenizer
