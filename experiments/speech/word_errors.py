"""Word and character error rates, without case and punctuation."""

import dataclasses
from collections.abc import Sequence

import jiwer

WORDS = [  # "Cold-hearted, isn't it?" counts as: cold hearted isnt it
    jiwer.ToLowerCase(),
    jiwer.SubstituteRegexes({r"['\u2019]": "", r"[^\w\s]|_": " "}),
    jiwer.RemoveMultipleSpaces(),
    jiwer.Strip(),
]


@dataclasses.dataclass(frozen=True)
class Errors:
    """How many words or characters are wrong."""

    substituted: int
    left_out: int
    added: int
    all: int  # that are said

    @property
    def rate(self) -> float:
        """Errors for each that is said."""
        return (self.substituted + self.left_out + self.added) / max(self.all, 1)


def count_errors(known: Sequence[str], written: Sequence[str]) -> tuple[Errors, Errors]:
    """The least errors, of words and of characters, that turn what is said into what was written."""
    by_word = jiwer.Compose([*WORDS, jiwer.ReduceToListOfListOfWords()])
    by_character = jiwer.Compose([*WORDS, jiwer.ReduceToListOfListOfChars()])
    both = list(known), list(written)
    found = (
        jiwer.process_words(*both, by_word, by_word),
        jiwer.process_characters(*both, by_character, by_character),
    )
    words, characters = (
        Errors(one.substitutions, one.deletions, one.insertions, one.hits + one.substitutions + one.deletions)
        for one in found
    )
    return words, characters
