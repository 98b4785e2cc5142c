"""The runs that one command of fine-tuning asks for: a grid of settings, and several seeds of each."""

import dataclasses
import itertools
import os
from collections.abc import Iterator
from typing import Any

from bert_jax.finetuning_config import BertFinetuning
from core_jax.config import require
from core_jax.errors import UserError

GRID_NAMES = {"lr": "learning_rate", "batch": "global_batch_size", "epochs": "epochs", "seed": "seed"}


def expand(config: BertFinetuning, seeds: int, grid: str, workdir: str) -> Iterator[tuple[str, str, BertFinetuning]]:
    """Name, work folder and configuration of each run; one run without name where there is neither grid nor seeds.

    Args:
      config: of the command.
      seeds: runs of each setting.
      grid: such as lr:1e-5,2e-5;batch:16,32.
      workdir: holds the folders of the runs.
    Raises:
      UserError: the grid cannot be read, or names no flag.
    """
    axes = parse_grid(grid)
    if seeds > 1:
        first = config.tuning.seed
        axes.append(("seed", [str(first + number) for number in range(seeds)]))
    if not axes:
        yield config.labels.task, workdir, config
        return
    for values in itertools.product(*(values for _, values in axes)):
        pairs = list(zip((name for name, _ in axes), values, strict=True))
        changed = config
        for name, value in pairs:
            changed = with_flag(changed, name, value)
        name = " ".join(f"{name}={value}" for name, value in pairs)
        yield name, os.path.join(workdir, name.replace(" ", "_").replace("/", "_")), changed


def parse_grid(text: str) -> list[tuple[str, list[str]]]:
    """`lr:1e-5,2e-5;batch:16` -> [("learning_rate", ["1e-5", "2e-5"]), ("global_batch_size", ["16"])].

    Raises:
      UserError: it cannot be read.
    """
    axes = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, colon, values = part.partition(":")
        name, found = name.strip(), [value.strip() for value in values.split(",") if value.strip()]
        require(
            bool(colon and name and found),
            f"--grid={text}: {part!r} is not NAME:VALUE,VALUE; expected such as lr:1e-5,2e-5;batch:16,32",
        )
        axes.append((GRID_NAMES.get(name, name), found))
    twice = [name for name, _ in axes if [other for other, _ in axes].count(name) > 1]
    require(not twice, f"--grid={text}: {twice[:1]} stands there twice; expected each name once")
    return axes


def with_flag(config: Any, name: str, text: str) -> Any:
    """A configuration (of configurations) with one field set from text.

    Raises:
      UserError: there is no such field, or the text is no value of it.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == name and not dataclasses.is_dataclass(value):
            try:
                return dataclasses.replace(config, **{name: type(value)(text)})
            except ValueError:
                kind = type(value).__name__
                raise UserError(f"--grid: {name} has the value {text!r}; expected a {kind}") from None
        if dataclasses.is_dataclass(value) and any(f.name == name for f in dataclasses.fields(value)):
            return dataclasses.replace(config, **{field.name: with_flag(value, name, text)})
    raise UserError(f"--grid: there is no flag --{name}; short names are {', '.join(GRID_NAMES)}")
