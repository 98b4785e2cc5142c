"""The text of new tokens, as they come: no more of it than is certain, and no more than up to a stop string."""

from collections.abc import Sequence

from bert_jax.tokenizer import Tokenizer

INCOMPLETE = "\ufffd"  # what bytes are decoded to that are no whole character, perhaps not yet


class NewText:
    """What follows one prompt."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stops: Sequence[str] = ()):
        """Starts with no new tokens.

        Args:
          tokenizer: of the model.
          prompt: the tokens of the prompt: how a piece is spelt may depend on what is before it.
          stops: strings at the first of which the text ends; they are not part of it.
        """
        self._tokenizer, self._stops = tokenizer, tuple(stops)
        self._prompt, self._before = list(prompt), tokenizer.decode(prompt)
        self._tokens: list[int] = []
        self._shown = 0  # characters that were given
        self.is_stopped = False

    def add(self, tokens: Sequence[int]) -> str:
        """Takes the next tokens; gives the characters that are certain now, and were not before."""
        self._tokens += tokens
        text = self._cut()
        return self._give(text if self.is_stopped else text[: self._certain(text)])

    def close(self) -> str:
        """Gives what is left when no more tokens come."""
        return self._give(self._cut())

    @property
    def text(self) -> str:
        """All of it."""
        return self._cut()

    def _give(self, text):
        new, self._shown = text[self._shown :], max(self._shown, len(text))
        return new

    def _cut(self):
        """The text up to the first stop string."""
        whole = self._tokenizer.decode([*self._prompt, *self._tokens])
        is_longer = whole.startswith(self._before)
        text = whole[len(self._before) :] if is_longer else self._tokenizer.decode(self._tokens)
        places = [place for place in (text.find(stop) for stop in self._stops) if place >= 0]
        self.is_stopped = bool(places)
        return text[: min(places)] if places else text

    def _certain(self, text):
        """How many characters stay, whatever comes: no half of a character, no beginning of a stop string."""
        certain = len(text.rstrip(INCOMPLETE))
        for stop in self._stops:
            starts = (size for size in range(min(len(stop), certain), 0, -1) if text[:certain].endswith(stop[:size]))
            certain = min(certain, certain - next(starts, 0))
        return certain
