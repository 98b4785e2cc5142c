"""What --init of a GPT names: the work folder of a run, or hf:DIR of `transformers`."""

import os
import pathlib
from collections.abc import Callable

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from bert_jax.gpt import Gpt
from bert_jax.gpt_config import GptConfig, GptRun, read_gpt_config
from bert_jax.gpt_pretraining import load_params
from bert_jax.gpt_weights import from_peer_config, read_hf
from bert_jax.pretraining import identity
from bert_jax.tokenizer import Tokenizer
from bert_jax.tokenizer_files import load_tokenizer
from core_jax.checkpoints import check_saved
from core_jax.config import adopt_fields, require
from core_jax.sharding import by_path, place_like
from core_jax.transformer import stack_layers

# Of a checkpoint; the other fields of a model say how it is trained and computed.
ARCHITECTURE = (
    *("width", "depth", "heads", "mlp_width", "vocab_size", "maximum_positions", "norm", "norm_epsilon", "gelu"),
)
FOREIGN = "hf:"


def adopt_architecture(config: GptRun, report: Callable[[str], None]) -> GptRun:
    """The configuration with the sizes of what --init names.

    Args:
      config: from the command line.
      report: is told which sizes differed.
    Raises:
      UserError: the sizes cannot be read, or do not go with the rest.
    """
    if not config.init:
        return config
    theirs = architecture_of(config.init)
    return adopt_fields(config, {"model": {name: getattr(theirs, name) for name in ARCHITECTURE}}, report)


def architecture_of(init: str) -> GptConfig:
    """The model that --init names."""
    if init.startswith(FOREIGN):
        return from_peer_config(pathlib.Path(init.removeprefix(FOREIGN)).expanduser() / "config.json")
    require(":" not in init, f"--init={init}: expected the work folder of a GPT, or hf:DIR")
    return read_gpt_config(init).model


def check_init(init: str) -> None:
    """Raises for an --init that cannot be started from, before any text is read.

    Raises:
      UserError: it is no work folder with a checkpoint, and no GPT-2 that can be read with its vocabulary.
    """
    if init.startswith(FOREIGN):
        folder = init.removeprefix(FOREIGN)
        imported, pieces = read_hf(folder), load_tokenizer(folder).vocab_size
        rows = imported.config.vocab_size
        require(pieces == rows, f"{init} embeds {rows} pieces, but its vocabulary has {pieces}: they must be as many")
    elif init:
        check_saved(os.path.join(init, "checkpoints"))


def load_init(
    init: str, model: Gpt, tokenizer: Tokenizer, fresh: PyTree, mesh: Mesh, report: Callable[[str], None]
) -> PyTree:
    """The parameters to start from, sharded over a mesh.

    Args:
      init: a work folder, or hf:DIR.
      model: whose parameters are wanted.
      tokenizer: vocabulary of the text; must be that of the checkpoint.
      fresh: parameters of the model on the mesh, for their shapes.
      mesh: where they go.
      report: is told about checkpoints that cannot be used.
    Raises:
      UserError: there are none, or they belong to another model or vocabulary.
    """
    if not init.startswith(FOREIGN):
        return load_params(model, tokenizer, init, mesh, report)
    folder = init.removeprefix(FOREIGN)
    require(
        identity(tokenizer) == identity(load_tokenizer(folder)),
        f"--init={init} was trained with another vocabulary than this text is cut into: leave --tokenizer out, or "
        "prepare the text with its vocabulary",
    )
    params = read_hf(folder).params
    if model.config.scan_layers:
        params = params | {"decoder": jax.device_get(stack_layers(params["decoder"]))}
    return place_like(fresh, by_path(params), mesh)
