"""The scores of a run after each epoch, as its metrics.jsonl holds them."""

import dataclasses
from typing import Any

from core_jax.workdir import read_records


@dataclasses.dataclass(frozen=True)
class History:
    """What a run has written down so far."""

    workdir: str
    metric: str  # that chooses the best epoch; larger is better
    patience: int  # epochs without a better score that are too many; 0: any number is well

    def lines(self, split: str) -> list[dict[str, Any]]:
        """The lines of a split, oldest first."""
        return [line for line in read_records(self.workdir) if line["split"] == split]

    def best(self) -> dict[str, Any] | None:
        """The line of the best epoch, the first of equal ones."""
        return max(self.lines("validation"), key=lambda line: line[self.metric], default=None)

    def is_better(self, scores: dict[str, float]) -> bool:
        """Whether scores are better than those of every epoch so far."""
        best = self.best()
        return best is None or scores[self.metric] > best[self.metric]

    def is_scored(self, step: int) -> bool:
        """Whether the validation examples were scored after so many steps."""
        return any(line["step"] == step for line in self.lines("validation"))

    def is_stuck(self, epoch_steps: int) -> bool:
        """Whether so many epochs as `patience` says brought nothing better."""
        lines, best = self.lines("validation"), self.best()
        return bool(self.patience and best and lines[-1]["step"] - best["step"] >= self.patience * epoch_steps)
