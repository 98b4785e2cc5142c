"""The tokens of a transcript: words, what stands before them, and time stamps."""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import tokenizers

from bert_jax.transcript_vocabulary import FILE, read_vocabulary
from core_jax.config import require
from core_jax.errors import UserError

STEP_SECONDS = 0.02  # between two time stamps
STARTS, ENDS, PLAIN = "<|startoftranscript|>", "<|endoftext|>", "<|notimestamps|>"
STARTS_PREVIOUS = "<|startofprev|>"  # stands before what was said earlier
LANGUAGE = re.compile(r"<\|([a-z]{2,3})\|>")
Task = Literal["transcribe", "translate"]


@dataclasses.dataclass(frozen=True)
class Segment:
    """A piece of a transcript."""

    start: float  # seconds
    end: float
    tokens: list[int]  # without time stamps


class TranscriptTokens:
    """The vocabulary of a speech recogniser.

    Attributes:
      end_id: piece that ends a transcript.
      plain_id: piece that says that no time stamps follow.
      first_stamp: piece of 0.00 seconds; the next ones stand for multiples of STEP_SECONDS.
      languages: the id of each language that can be told, by its code; of an English model there is none.
      tasks: the id of each task that can be told.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        *,
        languages: bool | Mapping[str, int],
        tasks: Mapping[str, int] | None = None,
    ):
        """Looks up the special pieces.

        Args:
          tokenizer: the vocabulary.
          languages: the ids of those that the model was taught, by their codes; or whether these are all that the
            vocabulary has pieces of. Where it has no language but English, or no task, the model knows English only.
          tasks: the ids of those that the model was taught; by default those that the vocabulary has pieces of.
        Raises:
          UserError: a piece is missing that all have.
        """
        self._tokenizer = tokenizer
        ids = tokenizer.get_vocab()
        missing = [piece for piece in (STARTS, ENDS, PLAIN) if piece not in ids]
        require(not missing, f"the vocabulary lacks {', '.join(missing)}; expected that of a Whisper")
        self._ids, self.end_id, self.plain_id = ids, ids[ENDS], ids[PLAIN]
        self.first_stamp = self.plain_id + 1
        here = {task: ids[f"<|{task}|>"] for task in get_args(Task) if f"<|{task}|>" in ids}
        self.tasks = here if tasks is None else dict(tasks)
        self.languages = dict(languages) if isinstance(languages, Mapping) else {}
        if languages is True and self.tasks:
            found = {match[1]: index for piece, index in ids.items() if (match := LANGUAGE.fullmatch(piece))}
            self.languages = found if found.keys() - {"en"} else {}

    @classmethod
    def read(
        cls, folder: pathlib.Path, *, languages: bool | Mapping[str, int], tasks: Mapping[str, int] | None = None
    ) -> "TranscriptTokens":
        """Reads tokenizer.json, or the older vocab.json with merges.txt.

        Args:
          folder: that has it.
          languages: as for the class.
          tasks: as for the class.
        Raises:
          UserError: neither is there, or it is damaged.
        """
        content = read_vocabulary(folder)
        try:
            return cls(tokenizers.Tokenizer.from_buffer(content), languages=languages, tasks=tasks)
        except UserError as error:
            raise UserError(f"{folder}: {error}") from None
        except Exception as error:  # the only class that `tokenizers` raises
            raise UserError(
                f"{folder / FILE} cannot be read ({error}); expected the vocabulary of the model"
            ) from error

    def prompt(self, language: str, task: Task, *, stamps: bool) -> list[int]:
        """What stands before a transcript.

        Args:
          language: its code; of no account where there is only one.
          task: what to write: what is said, or that in English.
          stamps: whether time stamps are wanted.
        Raises:
          UserError: the model does not know the language, or cannot translate.
        """
        told = [] if stamps else [self.plain_id]
        if not self.languages:
            require(language == "en", f"--language={language}: this model knows English only; leave it out")
            require(task == "transcribe", f"--task={task}: this model knows English only, and translates nothing")
            return [*self.start, *told]
        known = ", ".join(sorted(self.languages))
        require(language in self.languages, f"--language={language}: expected auto, or one of {known}")
        require(task in self.tasks, f"--task={task}: this model knows {', '.join(sorted(self.tasks))} only")
        return [*self.start, self.languages[language], self.tasks[task], *told]

    @property
    def start(self) -> list[int]:
        """The first piece alone, after which a model tells the language."""
        return [self._ids[STARTS]]

    @property
    def special_pieces(self) -> list[str]:
        """The pieces that are no text and no time stamp, in the order of their ids."""
        pieces = sorted((index, piece) for piece, index in self._ids.items() if self.end_id <= index <= self.plain_id)
        return [piece for _, piece in pieces]

    def id_of(self, piece: str) -> int | None:
        """Its id; None where the vocabulary lacks it."""
        return self._ids.get(piece)

    def text(self, tokens: Sequence[int]) -> str:
        """The words of a transcript; time stamps and other special pieces are left out."""
        return self._tokenizer.decode([token for token in tokens if token < self.end_id])

    def piece(self, token: int) -> str:
        """One piece as text; special ones have names."""
        return self._tokenizer.decode([token], skip_special_tokens=False).strip()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """What is said as pieces; a blank stands before it, as before what a model writes."""
        found = self._tokenizer.encode_batch([f" {text.strip()}" for text in texts], add_special_tokens=False)
        return [one.ids for one in found]

    def segments(self, tokens: Sequence[int], seconds: float) -> tuple[list[Segment], float]:
        """Cuts the transcript of a window where two time stamps follow each other.

        Args:
          tokens: of the window, without the end.
          seconds: that the window holds.
        Returns:
          The pieces, with seconds from the start of the window; and how much of it they cover: what was begun but not
          ended is heard again in the next window.
        Source: Radford et al. 2022, section 2.3 and 3.8, https://arxiv.org/abs/2212.04356
        """
        is_stamp = [token >= self.first_stamp for token in tokens]
        cuts = [place for place in range(1, len(tokens)) if is_stamp[place - 1] and is_stamp[place]]
        ends_once = is_stamp[-2:] == [False, True]
        if not cuts:
            stamps = [token for token, stamp in zip(tokens, is_stamp, strict=True) if stamp]
            end = self._seconds(stamps[-1]) if stamps and stamps[-1] > self.first_stamp else seconds
            return [Segment(0.0, end, self._words(tokens))], seconds
        places = [0, *cuts, *([len(tokens)] if ends_once else [])]
        parts = [tokens[start:end] for start, end in itertools.pairwise(places)]
        segments = [Segment(self._seconds(part[0]), self._seconds(part[-1]), self._words(part)) for part in parts]
        covered = seconds if ends_once else self._seconds(tokens[places[-1] - 1])
        return segments, covered

    def _seconds(self, stamp: int) -> float:
        return round((stamp - self.first_stamp) * STEP_SECONDS, 2)

    def _words(self, tokens):
        return [token for token in tokens if token < self.first_stamp]
