"""A GPT to generate with: a folder of `transformers`, or the work folder of a run."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from bert_jax.gpt import Gpt
from bert_jax.gpt_config import GptAnswers, read_gpt_config
from bert_jax.gpt_pretraining import open_trained, resolve_model
from bert_jax.gpt_tasks import initial_params
from bert_jax.gpt_weights import KIND, from_peer_config, read_hf
from bert_jax.starting_points import is_gpt
from bert_jax.tokenizer import Tokenizer
from bert_jax.tokenizer_files import load_tokenizer
from core_jax.config import require
from core_jax.model_folders import read_fields
from core_jax.sharding import check_mesh, tree_shardings, with_shardings
from core_jax.transformer import unstack_layers


@dataclasses.dataclass(frozen=True)
class OpenedGpt:
    """A GPT that can be computed with."""

    model: Gpt  # unrolled: a step of one token is faster so; its table may have more rows than there are pieces
    tokenizer: Tokenizer
    params: PyTree  # on the mesh, float32
    ends: tuple[int, ...]  # pieces that end a text, each
    starts: tuple[int, ...]  # what a text starts with: the end piece where that stood in front of each in training

    template: str = "{prompt}"  # of a GPT that answers: what stood before the answers that it learnt from

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Texts to go on from, or to answer, as tokens."""
        framed = [self.template.replace("{prompt}", text) for text in texts]
        return [[*self.starts, *tokens] for tokens in self.tokenizer.encode(framed)]


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
    if init.startswith("hf:"):
        return _open_foreign(init, mesh, dtype)
    require(bool(init) and ":" not in init, f"--init={init}: expected hf:DIR, or the work folder of a run")
    other = f"{init} is of no GPT; for a BERT or a ViT type: python -m experiments.predict --init={init} ..."
    require(is_gpt(init), other)
    model = resolve_model(read_gpt_config(init).model, load_tokenizer(os.path.join(init, "tokenizer")))
    check_mesh(mesh, jax.eval_shape(initial_params(model), jax.random.key(0)), mesh.size)
    trained = open_trained(init, mesh, report)
    params = trained.params
    if model.config.scan_layers:
        params = params | {"decoder": unstack_layers(params["decoder"])}
    config = dataclasses.replace(model.config, dtype=dtype, scan_layers=False)
    end = trained.tokenizer.end_id
    template = trained.config.text.template if isinstance(trained.config, GptAnswers) else OpenedGpt.template
    return OpenedGpt(Gpt(config), trained.tokenizer, params, (end,), (end,), template)


def open_sizes(init: str, mesh: Mesh, dtype: str) -> OpenedGpt:
    """What --init names, to plan with: shapes stand for parameters, which are not read.

    Args:
      init, dtype: as for `open_gpt`.
      mesh: that is planned for.
    Raises:
      UserError: nothing is there, it cannot be read, it is no GPT, or the mesh does not divide it.
    """
    template, starts = OpenedGpt.template, ()
    if init.startswith("hf:"):
        folder = pathlib.Path(init.removeprefix("hf:")).expanduser()
        config, tokenizer = from_peer_config(folder / "config.json"), load_tokenizer(folder)
        ends = _ends(folder, tokenizer)
        rows = config.vocab_size + -config.vocab_size % mesh.shape["tensor"]
        config = dataclasses.replace(config, vocab_size=rows)
    else:
        run, tokenizer = read_gpt_config(init), load_tokenizer(os.path.join(init, "tokenizer"))
        config, starts = resolve_model(run.model, tokenizer).config, (tokenizer.end_id,)
        ends = starts
        template = run.text.template if isinstance(run, GptAnswers) else template
    model = Gpt(dataclasses.replace(config, dtype=dtype, scan_layers=False))
    shapes = jax.eval_shape(initial_params(model), jax.random.key(0))
    check_mesh(mesh, shapes, mesh.size)
    return OpenedGpt(model, tokenizer, with_shardings(shapes, mesh), ends, starts, template)


def _open_foreign(init, mesh, dtype):
    folder = init.removeprefix("hf:")
    imported, tokenizer = read_hf(folder), load_tokenizer(folder)
    rows = imported.config.vocab_size
    require(tokenizer.vocab_size <= rows, f"{init} embeds {rows} pieces, but its vocabulary has {tokenizer.vocab_size}")
    params, rows = _divisible(imported.params, mesh.shape["tensor"])
    check_mesh(mesh, params, mesh.size)
    config = dataclasses.replace(imported.config, dtype=dtype, vocab_size=rows)
    params = jax.device_put(params, tree_shardings(params, mesh))
    return OpenedGpt(Gpt(config), tokenizer, params, _ends(pathlib.Path(folder).expanduser(), tokenizer), ())


def _ends(folder: pathlib.Path, tokenizer: Tokenizer) -> tuple[int, ...]:
    """What ends a text, as `transformers` reads it: some models have several such pieces."""
    for name in ("generation_config.json", "config.json"):
        ends = read_fields(folder / name, KIND).get("eos_token_id") if (folder / name).exists() else None
        if ends is not None:
            return tuple(ends) if isinstance(ends, list) else (int(ends),)
    return (tokenizer.end_id,)


def _divisible(params: dict[str, Any], parts: int) -> tuple[dict[str, Any], int]:
    """Rows added to the table, until a mesh divides it: GPT-2's 50,257 pieces divide by no power of 2."""
    table = params["embeddings"]["token"]["embedding"]
    table = np.pad(table, ((0, -len(table) % parts), (0, 0)))
    return params | {"embeddings": params["embeddings"] | {"token": {"embedding": table}}}, len(table)
