"""The runs that one command of fine-tuning asks for: a grid of settings, and several seeds of each."""

import contextlib
import dataclasses
import io
import itertools
import os
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

from bert_jax.finetuning_config import BertFinetuning
from core_jax.config import require
from core_jax.errors import UserError
from experiments.console import parse_flags

GRID_NAMES = {"lr": "learning_rate", "batch": "global_batch_size", "epochs": "epochs", "seed": "seed"}


def expand(config: BertFinetuning, seeds: int, grid: str, workdir: str) -> Iterator[tuple[str, str, BertFinetuning]]:
    """Name, work folder and configuration of each run; one run without name where there is neither grid nor seeds.

    Args:
      config: of the command.
      seeds: runs of each setting.
      grid: such as lr:1e-5,2e-5;batch:16,32.
      workdir: holds the folders of the runs.
    Raises:
      UserError: the grid cannot be read, names no flag or one that cannot differ, or gives a value that is none.
    """
    axes = parse_grid(grid)
    if seeds > 1:
        require(
            all(name != "seed" for name, _ in axes),
            f"--grid={grid}: there are seeds here and in --seeds={seeds}; give them in one of both",
        )
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
      UserError: there is no such field, runs of one command cannot differ in it, or the text is no value of it.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == name and not dataclasses.is_dataclass(value):
            _check_can_differ(field)
            return dataclasses.replace(config, **{name: _read_value(type(config), name, text)})
        if dataclasses.is_dataclass(value) and any(f.name == name for f in dataclasses.fields(value)):
            return dataclasses.replace(config, **{field.name: with_flag(value, name, text)})
    raise UserError(f"--grid: there is no flag --{name}; short names are {', '.join(GRID_NAMES)}")


def _check_can_differ(field):
    """Refuses what changes nothing of what a run learns, and the task, whose scores could not be compared."""
    name = field.name
    require(
        name != "task" and not field.metadata.get("elastic"),
        f"--grid: --{name} cannot differ between the runs of one command; give it as a flag of its own, --{name}=VALUE",
    )


def _read_value(config: type, name: str, text: str) -> Any:
    """What the command line makes of --name=text."""
    kind = get_type_hints(config)[name]
    alone = dataclasses.make_dataclass("Alone", [(name, kind)])
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # where the parser prints a message of its own
            return getattr(parse_flags(alone, [f"--{name}={text}"], ""), name)
    except SystemExit:
        raise UserError(f"--grid: {name}={text}: expected {_values_of(kind)}") from None


def _values_of(kind: Any) -> str:
    """The values of a type, in words."""
    if kind is bool:
        return "True or False"
    if get_origin(kind) is Literal:
        *first, last = map(str, get_args(kind))
        return f"{', '.join(first)} or {last}"
    return {int: "a whole number", float: "a number"}.get(kind, f"a value of {kind}")
