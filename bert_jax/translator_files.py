"""Translators as folders of `transformers`, whatever their kind: parameters, vocabulary, and how they search."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bert_jax.tokenizer import Tokenizer
from bert_jax.translation import Translator, initial_params
from bert_jax.translation_config import TranslationConfig
from core_jax import peer_names
from core_jax.beam_search import BeamSettings
from core_jax.model_folders import read_fields, write_fields, write_folder
from core_jax.safetensors_files import Tensors, write_tensors
from core_jax.sharding import by_path, nested
from core_jax.transformer import unstack_layers

KIND = "a translator"
SEARCH = "generation_config.json"


@dataclasses.dataclass(frozen=True)
class ImportedTranslator:
    """A translator from elsewhere."""

    config: TranslationConfig  # of the unrolled model
    params: dict[str, Any]  # in our names and shapes, float32 on the host


def read_search(folder: str | os.PathLike) -> BeamSettings:
    """How the model of a folder of `transformers` searches, as its generation_config.json or config.json says."""
    folder = pathlib.Path(folder).expanduser()
    fields = read_fields(folder / "config.json", KIND)
    fields |= read_fields(folder / SEARCH, KIND) if (folder / SEARCH).exists() else {}
    beams, penalty = fields.get("num_beams") or 1, fields.get("length_penalty")
    return BeamSettings(beams=beams, length_penalty=1.0 if penalty is None else penalty)


def write_translator(
    folder: str | os.PathLike,
    fields: dict[str, Any],
    tensors: Tensors,
    vocabulary: Tokenizer | None,
    search: dict[str, Any],
) -> None:
    """Writes a folder that `transformers` opens; all or nothing.

    Args:
      folder: to make.
      fields: of config.json.
      tensors: by the peer's names.
      vocabulary: in the peer's form, if it is to be written.
      search: of `search_fields`.
    Raises:
      UserError: the folder is not empty.
    """

    def write(temporary: pathlib.Path) -> None:
        write_fields(temporary / "config.json", fields)
        write_tensors(temporary, tensors)
        if vocabulary is not None:
            vocabulary.save(temporary)
        if search:
            write_fields(temporary / SEARCH, search)

    write_folder(pathlib.Path(folder).expanduser(), write)


def unrolled_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of an unrolled or scanned model -> those of an unrolled one, on the host."""
    stacks = {name: params[name] for name in ("encoder", "decoder")}
    stacks = {name: unstack_layers(stack) if "blocks" in stack else stack for name, stack in stacks.items()}
    return jax.tree.map(np.asarray, {**params, **stacks})


def peer_tensors(params: Mapping[str, Any], name_of: Callable[[str], str]) -> dict[str, np.ndarray]:
    """Parameters in the peer's names and shapes.

    Args:
      params: of the unrolled or scanned model.
      name_of: the peer's name of each path.
    """
    leaves = by_path(unrolled_params(params))
    return {
        name_of(path): np.ascontiguousarray(peer_names.to_peer(path, value, _peer_shape(path, value.shape)))
        for path, value in leaves.items()
    }


def our_params(
    found: Tensors,
    config: TranslationConfig,
    name_of: Callable[[str], str],
    source: str,
    kind: str,
    problems: Sequence[str],
) -> dict[str, Any]:
    """The inverse of `peer_tensors`.

    Args:
      found: tensors by the peer's names.
      config: that their shapes must fit.
      name_of: as there.
      source: named in errors.
      kind: of the model, in errors.
      problems: what else is wrong with the tensors.
    Returns:
      A nested dict of float32.
    Raises:
      UserError: tensors are missing, unknown or of another shape, or there are problems; all are listed.
    """
    leaves = by_path(jax.eval_shape(initial_params(Translator(config)), jax.random.key(0)))
    expected = {name_of(path): _peer_shape(path, leaf.shape) for path, leaf in leaves.items()}
    peer_names.check_tensors(found, expected, source, kind, problems)
    return nested(
        {
            path: np.ascontiguousarray(peer_names.from_peer(path, found[name_of(path)], leaf.shape), np.float32)
            for path, leaf in leaves.items()
        }
    )


def _peer_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, *shape) if path == "bias" else peer_names.peer_shape(path, shape)


def without_copies(tensors: Tensors, table: str, copies: Sequence[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Tensors without those that are the table of the vocabulary once more, as some versions save it.

    Args:
      tensors: by the peer's names.
      table: name of the table; where it is absent a copy becomes it.
      copies: names of what must be equal to it.
    Returns:
      The tensors, and a line for each copy that differs.
    """
    found = {name: value for name, value in tensors.items() if name not in copies}
    repeated = {name: tensors[name] for name in copies if name in tensors}
    if table not in found and repeated:
        found[table] = next(iter(repeated.values()))
    kept = found.get(table)
    differing = [name for name, copy in repeated.items() if kept is not None and not np.array_equal(copy, kept)]
    return found, [f"{name}: differs from {table}, to which it must be tied" for name in differing]


def search_fields(config: TranslationConfig, search: BeamSettings | None) -> dict[str, Any]:
    """The fields of a generation_config.json; none where no search is given."""
    if search is None:
        return {}
    names = {"pad_id": "pad_token_id", "start_id": "decoder_start_token_id", "end_id": "eos_token_id"}
    return {
        **{theirs: getattr(config, ours) for ours, theirs in names.items()},
        "bad_words_ids": [[config.pad_id]],
        "forced_eos_token_id": config.end_id,
        "max_length": config.maximum_positions,
        "num_beams": search.beams,
        "length_penalty": search.length_penalty,
    }
