"""Letters as a vocabulary: what a recogniser that spells writes."""

import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int

from core_jax.config import require

FIRST = 1  # output of the first letter; 0 is the blank
APOSTROPHES = {ord(mark): "'" for mark in "\u2019\u02bc"}


def spelt(text: str) -> str:
    """A text in small letters and figures, one space between words, apostrophes within them; nothing else."""
    lower = unicodedata.normalize("NFC", text).lower().translate(APOSTROPHES)
    kept = (one if one.isalnum() or one == "'" or unicodedata.combining(one) else " " for one in lower)
    return " ".join("".join(kept).split())


def letters_of(texts: Iterable[str]) -> tuple[str, ...]:
    """The letters of texts, in the order of their code points.

    Raises:
      UserError: there are none.
    """
    found = tuple(sorted(set().union(*map(spelt, texts))))
    require(bool(found), "the transcripts hold no letters: expected what is said in each recording")
    return found


def spell(text: str, letters: Sequence[str]) -> Int[np.ndarray, " N"]:
    """The outputs of a text's letters; those that are not known are left out."""
    numbers = {letter: number + FIRST for number, letter in enumerate(letters)}
    return np.array([numbers[one] for one in spelt(text) if one in numbers], np.int32)


def read_out(outputs: Iterable[int], letters: Sequence[str]) -> str:
    """The text of letters."""
    return "".join(letters[number - FIRST] for number in outputs)
