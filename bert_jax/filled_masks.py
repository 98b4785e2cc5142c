"""How a model fills the hidden places of some held-out text, for people to read."""

import itertools
import json

import numpy as np
from etils import epath
from jaxtyping import Int32

from bert_jax.pretraining_data import MaskedPair, PretrainingExamples
from bert_jax.tokenizer import Tokenizer
from core_jax.atomic_files import write_atomically

FILLED_MASKS = "filled_masks.json"  # of a work folder
SHOWN = 8  # pairs

# Text that is shown as it is, or [the right piece, the piece that the model gave].
Part = str | list[str]


def save_filled_masks(
    path: epath.PathLike, examples: PretrainingExamples, tokenizer: Tokenizer, filled: Int32[np.ndarray, "B P"]
) -> None:
    """Writes the first examples with what the model made of them.

    Args:
      path: of the file: a JSON list of pairs, each a list of two texts, each a list of parts: text, or the right piece
        and the one that the model gave.
      examples: held-out ones.
      tokenizer: theirs.
      filled: the most probable piece at each predicted position of the first examples.
    """
    count = min(SHOWN, len(examples), len(filled))
    pairs = [filled_texts(examples.pair(0, place), tokenizer, filled[place]) for place in range(count)]
    write_atomically(path, json.dumps(pairs, ensure_ascii=False, indent=1) + "\n")


def filled_texts(pair: MaskedPair, tokenizer: Tokenizer, filled: Int32[np.ndarray, " P"]) -> list[list[Part]]:
    """The two texts of a pair, each as parts; arguments as above, for one pair."""
    places = {int(place): number for number, place in enumerate(pair.mlm_positions)}
    ends = [place for place, token in enumerate(pair.tokens) if token == tokenizer.sep_id and place not in places]
    texts: list[list[Part]] = []
    for start, end in itertools.pairwise([0, *ends]):
        parts: list[Part] = []
        for is_hidden, stretch in itertools.groupby(range(start + 1, end), places.__contains__):
            if is_hidden:
                numbers = [places[place] for place in stretch]
                ids = [(int(pair.mlm_labels[number]), int(filled[number])) for number in numbers]
                parts += [[tokenizer.piece(right), tokenizer.piece(given)] for right, given in ids]
            else:
                parts.append(tokenizer.decode([int(pair.tokens[place]) for place in stretch]))
        texts.append(parts)
    return texts
