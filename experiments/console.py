"""What a person at a terminal sees: messages, a progress bar, tables, exit codes."""

import contextlib
import difflib
import errno
import itertools
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import FrameType
from typing import TypeVar

import jax
import tyro
from rich import progress
from rich.console import Console
from rich.table import Table

from core_jax import distributed
from core_jax.errors import UserError
from core_jax.peers import PeerError
from core_jax.train import NonFiniteLossError

USER_ERROR, FAILED = 2, 1  # exit codes
Config = TypeVar("Config")
console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """Prints one line, on the first process only."""
    if jax.process_index() == 0:
        console.print(message, markup=False)


def report(message: str) -> None:
    """Prints one line, on every process."""
    console.print(message, markup=False)


def run_command(main: Callable[[list[str]], int]) -> None:
    """Runs a command on the arguments of the process and exits: a user's mistake ends in one message and code 2.

    Where there are several processes, all exit with the same code, and the message is printed by one of them.
    """
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        code = _fail(USER_ERROR, error)
    except NonFiniteLossError as error:
        code = _fail(FAILED, error)
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            code = _fail(FAILED, f"the disk is full ({error}): free some and type the same command again")
            sys.stdout.flush()
            distributed.abandon(code)
            os._exit(code)  # now: the threads that write checkpoints and curves would bury the message under their own
        if not distributed.is_cluster():
            raise
        code = _end_cluster(error)
    distributed.abandon(code)  # waiting for the others, as at a good end, could last
    sys.exit(code)


def typed_command() -> str:
    """What to type to start this process again."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    started = ["python", "-m", spec.name.removesuffix(".__main__")] if spec else sys.argv[:1]
    return shlex.join([*started, *sys.argv[1:]])


def _fail(code, message):
    if distributed.announce(code, str(message)):
        errors.print(f"error: {message}", markup=False)
    return code


def _end_cluster(error):
    """Ends all processes because of an error of one, which may be the echo of another's death."""
    if isinstance(error, KeyboardInterrupt):
        distributed.announce(128 + signal.SIGINT, "interrupted")
        return 128 + signal.SIGINT
    if isinstance(error, PeerError):
        return error.code
    if not distributed.name_the_dead() and distributed.announce(FAILED, f"{type(error).__name__}: {error}"):
        traceback.print_exception(error)
    return FAILED


def parse_preset(arguments: list[str], presets: Mapping[str, Config], default: str, description: str) -> Config:
    """Reads `[PRESET] --flag=value ...`.

    Args:
      arguments: of the command line.
      presets: a configuration by name.
      default: the name where none is given.
      description: the first lines of --help.
    Returns:
      The preset's configuration with the flags put in.
    Raises:
      UserError: no such preset.
      SystemExit: a flag cannot be read (2), or --help (0).
    """
    name, flags = default, arguments
    if arguments and not arguments[0].startswith("-"):
        name, flags = arguments[0], arguments[1:]
    if name not in presets:
        near = difflib.get_close_matches(name, presets, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"unknown preset {name!r}: {hint}There are {', '.join(presets)}")
    return parse_flags(type(presets[name]), flags, f"{description}\n\nPRESET: {', '.join(presets)}", presets[name])


def parse_flags(
    kind: type[Config],
    flags: list[str],
    description: str,
    default: Config | None = None,
    switches: Sequence[str] = (),
) -> Config:
    """Reads flat `--flag=value` arguments into a dataclass (of dataclasses); `switches` may go without a value."""
    settings = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagConversionOff)
    for flag in flags:
        check_unicode(flag, "an argument")
    flags = [f"{flag}=True" if flag in switches else _expand_home(flag) for flag in flags]
    if default is None:
        return tyro.cli(kind, args=flags, description=description, config=settings)
    return tyro.cli(kind, args=flags, description=description, default=default, config=settings)


def check_unicode(text: str, name: str) -> None:
    """Raises UserError for bytes that are no UTF-8, which Python lets through as halves of characters."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        raise UserError(f"{name} is not in UTF-8: {shown!r}; convert it, for example with iconv -f latin1 -t utf-8")


def value_of(flag: str, arguments: Sequence[str]) -> str:
    """The last value of a flag, however it is written; empty where it is not there."""
    found = [text.partition("=")[2] for text in arguments if text.partition("=")[0] == flag]
    found += [after for text, after in itertools.pairwise(arguments) if text == flag]
    return found[-1] if found else ""


def _expand_home(flag):
    """`--init=~/run` with the home folder put in: shells do so only where a blank stands before the `~`."""
    name, equals, value = flag.partition("=")
    return name + equals + os.path.expanduser(value) if name.startswith("--") else flag


class StopRequest:
    """Turns SIGTERM and Ctrl-C, on any process, into a question that all ask after every step and batch of scoring."""

    def __init__(self):
        self.signal: int | None = None
        self._agreed: int | None = None  # the signal of one process at which all stop

    def __call__(self) -> bool:
        """True once somebody asked the run to end; on several processes from the same call on."""
        if distributed.is_cluster():
            self._agreed = distributed.stop_signal()
            return self._agreed is not None
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """As shells say it: 143 for SIGTERM, 130 for Ctrl-C."""
        return 128 + (self._agreed or self.signal or 0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signal is not None:  # asked twice: somebody cannot wait
            raise KeyboardInterrupt
        self.signal = number
        distributed.ask_to_stop(number)

    @contextlib.contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Catches the signals while inside."""
        before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class StepProgress:
    """A live bar on a terminal; in a pipe, a plain line for every call of `report`."""

    def __init__(self, first_step: int, last_step: int):
        self._live = console.is_terminal and jax.process_index() == 0
        self._last_step = last_step
        self._bar = progress.Progress(
            progress.TextColumn("step {task.completed}/{task.total}"),
            progress.BarColumn(),
            progress.TextColumn("{task.description}"),
            progress.TimeRemainingColumn(),
            console=console,
            disable=not self._live,
        )
        self._task = self._bar.add_task("compiling", total=last_step, completed=first_step)
        self._compiling = True

    def __enter__(self) -> "StepProgress":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def advance(self, step: int) -> None:
        """Moves the bar to a number of steps taken."""
        if self._live:
            self._bar.update(self._task, completed=step)
            if self._compiling:
                self._bar.update(self._task, description="")
                self._compiling = False

    def report(self, step: int, values: Mapping[str, float], names: Sequence[str]) -> None:
        """Shows some values of a stretch of training: beside the bar, or as a line."""
        text = "  ".join(f"{name} {format_value(name, values[name])}" for name in names if name in values)
        if self._live:
            self._bar.update(self._task, description=text)
        else:
            say(f"step {step}/{self._last_step}  {text}")


def format_value(name: str, value: float) -> str:
    """A number as a person reads it: shares in percent, rates without decimals."""
    if name.endswith(("accuracy", "share", "error_rate", "mfu", "utilization", "goodput")):
        return f"{100 * value:.2f} %"
    if name.endswith(("bleu", "chrf")):  # of 100
        return f"{value:.1f}"
    return f"{value:,.0f}" if name.endswith("per_second") else f"{value:.4f}"


def print_table(title: str, columns: Iterable[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a small table, on the first process only."""
    if jax.process_index() != 0:
        return
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
