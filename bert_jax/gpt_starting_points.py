"""A GPT to go on from or to generate with: a folder of `transformers`, or the work folder of a run."""

import dataclasses
from collections.abc import Callable

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from bert_jax.gpt import Gpt
from bert_jax.gpt_weights import read_hf
from bert_jax.tokenizer import Tokenizer
from bert_jax.tokenizer_files import load_tokenizer
from core_jax.config import require
from core_jax.sharding import check_mesh, tree_shardings


@dataclasses.dataclass(frozen=True)
class OpenedGpt:
    """A GPT that can be computed with."""

    model: Gpt  # unrolled: a step of one token is faster so
    tokenizer: Tokenizer
    params: PyTree  # on the mesh, float32


def open_gpt(init: str, mesh: Mesh, dtype: str, report: Callable[[str], None]) -> OpenedGpt:
    """Reads what --init names.

    Args:
      init: hf:DIR, or the work folder of a run.
      mesh: where the parameters go.
      dtype: of computation: auto, float32 or bfloat16.
      report: is told about checkpoints that cannot be used.
    Raises:
      UserError: nothing is there, it cannot be read, it is no GPT, or the mesh does not divide it.
    """
    require(bool(init), "--init=: expected hf:DIR, or the work folder of a run")
    folder = init.removeprefix("hf:")
    imported, tokenizer = read_hf(folder), load_tokenizer(folder)
    model = Gpt(dataclasses.replace(imported.config, dtype=dtype))
    check_mesh(mesh, imported.params, mesh.size)
    return OpenedGpt(model, tokenizer, jax.device_put(imported.params, tree_shardings(imported.params, mesh)))
