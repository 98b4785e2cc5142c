"""Folders of models that other programs open: made whole or not at all; their config.json read and checked."""

import contextlib
import json
import pathlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from core_jax.atomic_files import new_folder
from core_jax.config import require
from core_jax.errors import UserError


def check_free(folder: pathlib.Path) -> None:
    """Raises UserError unless a folder can be made there, or an empty one is there."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} is there already: nothing is overwritten; choose a new or an empty folder")


def write_folder(folder: pathlib.Path, write: Callable[[pathlib.Path], None]) -> None:
    """Makes a folder that is there whole or not at all.

    Args:
      folder: its path; nothing or an empty folder is there.
      write: fills the folder that it is given.
    Raises:
      UserError: something is there already, or it cannot be written.
    """
    check_free(folder)
    try:
        with new_folder(folder) as temporary:
            write(temporary)
    except PermissionError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from error


def write_fields(file: pathlib.Path, fields: Mapping[str, Any]) -> None:
    """Writes fields as JSON."""
    file.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def read_fields(file: pathlib.Path, kind: str) -> dict[str, Any]:
    """The fields of a JSON file.

    Args:
      file: such as config.json.
      kind: of the model that is expected, such as `a BERT`.
    Raises:
      UserError: there is no such file, or it holds something else.
    """
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{file.parent} holds no {file.name}; expected the folder of {kind} with one") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}); expected the JSON of {kind}'s sizes") from error
    require(isinstance(fields, dict), f"{file} holds no fields; expected the JSON of {kind}'s sizes")
    return fields


def model_type(place: str) -> str:
    """What hf:DIR calls its model, such as `gpt2`; empty where it does not say, and for other places.

    What is wrong with a folder is said by whoever reads it.
    """
    kind, _, folder = place.partition(":")
    file = pathlib.Path(folder).expanduser() / "config.json"
    if kind != "hf" or not file.exists():
        return ""
    try:
        return str(read_fields(file, "a model").get("model_type", ""))
    except UserError:
        return ""


def unlike(fields: Mapping[str, Any], plain: Mapping[str, Any]) -> list[str]:
    """What in some fields asks for what a model does not do.

    Args:
      fields: of a config.json.
      plain: values that leave it out.
    Returns:
      A line for each that differs.
    """
    return [
        f"{name} is {fields[name]!r}, expected {value!r}"
        for name, value in plain.items()
        if fields.get(name, value) != value
    ]


def check_fields(
    fields: Mapping[str, Any],
    file: pathlib.Path,
    ours: str,
    *,
    wanted: Iterable[str],
    plain: Mapping[str, Any],
    choices: Mapping[str, tuple[str, Collection[str]]],
    problems: Sequence[str] = (),
) -> dict[str, str]:
    """Lists all that keeps a model from being one of ours.

    Args:
      fields: of its config.json.
      file: that they are from.
      ours: the model that it is to be, such as `this GPT`.
      wanted: fields that must be there.
      plain: values of others that leave out what ours does not do.
      choices: of a field, its value where the file does not say, and the values that ours knows.
      problems: that were found before.
    Returns:
      What the file says, or stands for where it does not say, of each field of `choices`.
    Raises:
      UserError: there are any problems.
    """
    found = [*problems, *unlike(fields, plain), *(f"{name} is missing" for name in wanted if name not in fields)]
    chosen = {name: fields.get(name, usual) for name, (usual, _) in choices.items()}
    for name, (_, known) in choices.items():
        if chosen[name] not in tuple(known):  # a list has no hash
            found.append(f"{name} is {chosen[name]!r}, expected one of {', '.join(known)}")
    require(not found, f"{file} describes a model that {ours} cannot be:\n  " + "\n  ".join(found))
    return chosen


@contextlib.contextmanager
def numbers_expected(file: pathlib.Path, names: Iterable[str]) -> Iterator[None]:
    """Tells what in a config.json is to be numbers, where a model of its fields cannot be made."""
    try:
        yield
    except TypeError as error:
        raise UserError(f"{file} cannot be read ({error}); expected numbers for {', '.join(names)}") from error


def label_fields(labels: Sequence[str] | None) -> dict[str, Any]:
    """The fields that name classes.

    Raises:
      UserError: two have one name.
    """
    if labels is None:
        return {}
    require(len(set(labels)) == len(labels), f"labels repeat: {', '.join(labels)}; expected each once")
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
    }


def read_labels(fields: Mapping[str, Any], classes: int) -> list[str] | None:
    """The names of so many classes; None where some have none."""
    named, numbers = fields.get("id2label"), [str(number) for number in range(classes)]
    if not isinstance(named, dict) or named.keys() != set(numbers):
        return None
    return [str(named[number]) for number in numbers]
