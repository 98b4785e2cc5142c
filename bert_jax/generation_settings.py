"""How texts are continued, and in which shape: all mistakes are found before anything is compiled."""

import dataclasses
from collections.abc import Sequence

from jax.sharding import Mesh

from core_jax.beam_search import BeamSettings
from core_jax.config import require
from core_jax.logit_filters import LogitFilters
from core_jax.sharding import batch_parts

ROUNDED = 16  # lengths of prompts are rounded up to multiples of it


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """How texts are continued."""

    filters: LogitFilters = dataclasses.field(default_factory=LogitFilters)
    search: BeamSettings = dataclasses.field(default_factory=BeamSettings)
    max_new_tokens: int = 64  # tokens that follow a prompt at most
    samples: int = 1  # continuations of each prompt: drawn ones, or the best beams
    seed: int = 0  # of all that is drawn; the draws of a prompt depend on its number and on nothing else

    def __post_init__(self):
        beams, samples = self.search.beams, self.samples
        require(self.max_new_tokens > 0, f"--max_new_tokens={self.max_new_tokens}: expected 1 or more")
        require(samples > 0, f"--samples={samples}: expected 1 or more")
        require(0 <= self.seed < 2**32, f"--seed={self.seed}: expected a whole number from 0 to {2**32 - 1}")
        temperature = f"--temperature={self.filters.temperature}"
        require(
            beams == 1 or not self.filters.draws,
            f"--beams={beams} looks for the likeliest text and {temperature} draws one: leave one of them out",
        )
        require(
            beams == 1 or samples <= beams,
            f"--samples={samples} with --beams={beams}: a search finds as many texts as beams; use --beams={samples}",
        )
        require(
            samples == 1 or beams > 1 or self.filters.draws,
            f"--samples={samples}: the likeliest text is one; add --temperature=1 to draw, or --beams={samples}",
        )


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of all batches of prompts, so that each function is compiled once."""

    prompts: int  # N, those that fill up included
    length: int  # P
    capacity: int  # places of the cache

    @classmethod
    def of(cls, lengths: Sequence[int], settings: GenerationSettings, positions: int, rows: int, mesh: Mesh) -> "Shape":
        """The shape for all prompts.

        Args:
          lengths: of the prompts, in tokens.
          settings: say how many tokens follow.
          positions: that the model has.
          rows: continuations to compute at once, more or less.
          mesh: where they are computed.
        """
        longest = max(lengths)
        length = min(-(-longest // ROUNDED) * ROUNDED, positions - settings.max_new_tokens)
        prompts = min(max(rows // max(settings.samples, settings.search.beams), 1), len(lengths))
        replicas = batch_parts(mesh)
        return cls(-(-prompts // replicas) * replicas, length, length + settings.max_new_tokens)


def check_lengths(lengths: Sequence[int], max_new_tokens: int, positions: int) -> None:
    """Refuses prompts that a model cannot continue.

    Args:
      lengths: of the prompts, in tokens.
      max_new_tokens: to follow each.
      positions: that the model has.
    Raises:
      UserError: one is empty, or too long.
    """
    require(bool(lengths), "no prompt given; type one, give --file=FILE, or send lines to standard input")
    for number, length in enumerate(lengths, start=1):
        name = "the prompt" if len(lengths) == 1 else f"prompt {number}"
        require(length > 0, f"{name} is empty; type a few words to go on from")
        require(
            length < positions,
            f"{name} has {length:,} tokens, and the model reads {positions:,} at most, one of them new: it is "
            f"{length + 1 - positions:,} too long; shorten it",
        )
        require(
            length + max_new_tokens <= positions,
            f"{name} has {length:,} tokens, and --max_new_tokens={max_new_tokens} more are "
            f"{length + max_new_tokens:,}: the model reads {positions:,} at most. "
            f"Use --max_new_tokens={positions - length} or less, or shorten it",
        )
