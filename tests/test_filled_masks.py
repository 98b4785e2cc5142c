import json

import numpy as np
import pytest

from bert_jax.filled_masks import SHOWN, filled_texts, save_filled_masks
from bert_jax.pretraining_data import PretrainingExamples
from tests.numbered_text import numbered_corpus, numbered_documents


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return numbered_corpus(tmp_path_factory.mktemp("filled"), numbered_documents(100, seed=3))


def test_texts_are_whole_again_where_the_right_pieces_are_put_in(source):
    _, tokenizer = source
    examples = PretrainingExamples(*source, sequence_length=64, seed=0)
    for index in range(len(examples)):
        pair = examples.pair(0, index)
        whole = pair.tokens.copy()
        whole[pair.mlm_positions] = pair.mlm_labels
        middle = int(np.flatnonzero(pair.types)[0])
        filled = np.full(examples.predictions, tokenizer.unknown_id, np.int32)
        texts = filled_texts(pair, tokenizer, filled)
        for text, ids in zip(texts, (whole[1 : middle - 1], whole[middle:-1]), strict=True):
            words = [word for part in text for word in (part.split() if isinstance(part, str) else part[:1])]
            assert words == tokenizer.decode(ids.tolist()).split()
        given = [part[1] for text in texts for part in text if not isinstance(part, str)]
        assert given == [tokenizer.piece(tokenizer.unknown_id)] * len(pair.mlm_positions)


def test_the_file_holds_the_first_pairs(source, tmp_path):
    examples = PretrainingExamples(*source, sequence_length=64, seed=0)
    filled = np.stack([examples.example(0, place)["mlm_labels"] for place in range(len(examples))])
    save_filled_masks(tmp_path / "filled.json", examples, source[1], filled)
    pairs = json.loads((tmp_path / "filled.json").read_text())
    hidden = [part for pair in pairs for text in pair for part in text if not isinstance(part, str)]
    assert len(pairs) == SHOWN
    assert len(hidden) >= SHOWN
    assert all(right == given for right, given in hidden)
