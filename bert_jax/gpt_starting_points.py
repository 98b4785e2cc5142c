"""A GPT to go on from or to generate with: a folder of `transformers`, or the work folder of a run."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from bert_jax.gpt import Gpt
from bert_jax.gpt_pretraining import open_trained
from bert_jax.gpt_weights import read_hf
from bert_jax.tokenizer import Tokenizer
from bert_jax.tokenizer_files import load_tokenizer
from core_jax.config import require
from core_jax.sharding import check_mesh, tree_shardings
from core_jax.transformer import unstack_layers


@dataclasses.dataclass(frozen=True)
class OpenedGpt:
    """A GPT that can be computed with."""

    model: Gpt  # unrolled: a step of one token is faster so
    tokenizer: Tokenizer
    params: PyTree  # on the mesh, float32
    starts: tuple[int, ...]  # what a text starts with: the end piece where that stood in front of each in training

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Texts to go on from as tokens."""
        return [[*self.starts, *tokens] for tokens in self.tokenizer.encode(texts)]


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
    if init.startswith("hf:"):
        folder = init.removeprefix("hf:")
        imported, tokenizer = read_hf(folder), load_tokenizer(folder)
        check_mesh(mesh, imported.params, mesh.size)
        params = jax.device_put(imported.params, tree_shardings(imported.params, mesh))
        return OpenedGpt(Gpt(dataclasses.replace(imported.config, dtype=dtype)), tokenizer, params, ())
    require(":" not in init, f"--init={init}: expected hf:DIR, or the work folder of a run")
    trained = open_trained(init, mesh, report)
    config = dataclasses.replace(trained.model.config, dtype=dtype, scan_layers=False)
    params = trained.params
    if trained.model.config.scan_layers:
        params = params | {"decoder": unstack_layers(params["decoder"])}
    return OpenedGpt(Gpt(config), trained.tokenizer, params, (trained.tokenizer.end_id,))
