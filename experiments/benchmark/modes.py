"""What is measured: tasks, and the modes in which each side does them. Light: the peer's processes import it, too."""

import dataclasses
from typing import Literal

from core_jax.errors import UserError

Task = Literal["training", "inference", "finetuning", "embedding", "image training", "image inference", "generation"]
TASKS: tuple[Task, ...] = ("training", "inference", "finetuning", "embedding")  # of BERT
LABELLED: tuple[Task, ...] = ("finetuning", "embedding")  # which read whole texts, not pairs with hidden words
IMAGES: tuple[Task, ...] = ("image training", "image inference")  # of ViT
GENERATION: Task = "generation"  # of GPT
PROMPT, NEW = 64, 64  # of generation: tokens of a prompt, and those that follow it
OURS = "ours"


@dataclasses.dataclass(frozen=True)
class Mode:
    """One way to compute, in a process of its own."""

    engine: Literal["ours", "eager", "compile"]  # ours, or how torch runs the peer
    dtype: Literal["float32", "bfloat16"]

    def __str__(self) -> str:
        return f"{self.engine}-{self.dtype}"

    @property
    def is_ours(self) -> bool:
        """Whether it is ours, and not the peer's."""
        return self.engine == OURS


MODES = {
    str(mode): mode
    for mode in (
        Mode("ours", "bfloat16"),
        Mode("ours", "float32"),
        Mode("eager", "float32"),
        Mode("eager", "bfloat16"),
        Mode("compile", "float32"),
        Mode("compile", "bfloat16"),
    )
}


def parse_modes(text: str, peer: str) -> list[Mode]:
    """The modes of `--modes`, without the peer's where there is none.

    Args:
      text: names with commas between; empty: all.
      peer: "transformers" or "none".
    Raises:
      UserError: no such mode, or none of ours.
    """
    names = text.split(",") if text else list(MODES)
    unknown = [name for name in names if name not in MODES]
    if unknown:
        raise UserError(f"--modes={text}: unknown mode {unknown[0]!r}; there are {', '.join(MODES)}")
    modes = [MODES[name] for name in dict.fromkeys(names) if MODES[name].is_ours or peer != "none"]
    if not any(mode.is_ours for mode in modes):
        raise UserError(f"--modes={text}: none of ours is among them; add ours-bfloat16 or ours-float32")
    return modes
