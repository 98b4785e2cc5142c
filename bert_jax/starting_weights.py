"""What --init names: a work folder, hf:DIR of `transformers`, or tf:PREFIX of the original BERT."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from bert_jax.config import BertConfig, BertPretraining
from bert_jax.model import BertForPretraining
from bert_jax.peer_config import from_peer_config
from bert_jax.prepared_text import is_foreign
from bert_jax.pretraining import identity, load_params
from bert_jax.tensorflow_weights import read_tf
from bert_jax.tokenizer import Tokenizer
from bert_jax.weights import HEADS, Imported, read_hf
from core_jax.checkpoints import check_saved
from core_jax.config import adopt_fields, require
from core_jax.errors import UserError
from core_jax.sharding import by_path, place_like
from core_jax.transformer import stack_layers
from core_jax.workdir import read_config

# Of a checkpoint; the other fields of a model say how it is trained and computed.
ARCHITECTURE = (
    *("width", "depth", "heads", "mlp_width", "vocab_size", "maximum_positions", "type_vocab_size"),
    *("norm", "norm_epsilon", "gelu"),
)


def read_foreign(init: str) -> Imported:
    """Reads hf:DIR or tf:PREFIX.

    Raises:
      UserError: it is not there, damaged, or no BERT.
    """
    kind, path = init.split(":", 1)
    return read_hf(path) if kind == "hf" else read_tf(path)


def adopt_architecture(config: BertPretraining, report: Callable[[str], None]) -> BertPretraining:
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


def architecture_of(init: str) -> BertConfig:
    """The model that --init names."""
    if not is_foreign(init):
        return read_config(init, BertPretraining).model
    kind, path = init.split(":", 1)
    folder = pathlib.Path(path).expanduser()
    file = folder / "config.json" if kind == "hf" else folder.with_name("bert_config.json")
    return from_peer_config(file, original=kind == "tf")


def check_init(init: str) -> None:
    """Raises for an --init that cannot be started from, before any text is read.

    Raises:
      UserError: it is no work folder with a checkpoint, and no BERT that can be read.
    """
    if is_foreign(init):
        check_sizes(init, read_foreign(init))
    elif init:
        check_saved(os.path.join(init, "checkpoints"))


def load_init(
    init: str,
    model: BertForPretraining,
    tokenizer: Tokenizer,
    fresh: PyTree,
    mesh: Mesh,
    report: Callable[[str], None],
) -> PyTree:
    """The parameters to start from, sharded over a mesh.

    Args:
      init: a work folder, hf:DIR or tf:PREFIX.
      model: whose parameters are wanted.
      tokenizer: vocabulary of the text; must be that of the checkpoint.
      fresh: random parameters of the model on the mesh; those of heads that the checkpoint lacks are used.
      mesh: where they go.
      report: is told which parts are fresh.
    Raises:
      UserError: there are none, or they belong to another model or vocabulary.
    """
    if not is_foreign(init):
        return load_params(model, tokenizer, init, mesh, report)
    imported = read_foreign(init)
    check_sizes(init, imported)
    require(
        identity(tokenizer) == identity(imported.tokenizer),
        f"--init={init} was trained with another vocabulary than this text is cut into: leave --tokenizer out, or "
        "prepare the text with its vocabulary",
    )
    params, lacking = complete(imported.params, model.config, fresh, mesh)
    if lacking:
        report(f"{init} has no {', '.join(lacking)}: drawn fresh")
    return params


def complete(params: dict[str, Any], config: BertConfig, fresh: PyTree, mesh: Mesh) -> tuple[PyTree, list[str]]:
    """Puts the parameters of another program among fresh ones.

    Args:
      params: unrolled, on the host; heads that the model does not have are left out.
      config: of the model, which may be scanned.
      fresh: all parameters of the model, on the mesh.
      mesh: where they go.
    Returns:
      Parameters like `fresh`, and the names of the parts that are those of `fresh`.
    """
    if config.scan_layers:
        encoder = jax.device_get(stack_layers(params["bert"]["encoder"]))
        params = params | {"bert": params["bert"] | {"encoder": encoder}}
    theirs = by_path(params)
    absent = by_path(fresh).keys() - theirs.keys()
    lacking = [head for head in HEADS if any(path.startswith(head + "/") for path in absent)]
    return place_like(fresh, theirs, mesh), lacking


def check_sizes(init: str, imported: Imported) -> None:
    """Raises UserError where a checkpoint embeds more pieces than its vocabulary has."""
    pieces, rows = imported.tokenizer.vocab_size, imported.config.vocab_size
    if pieces != rows:
        raise UserError(
            f"{init} embeds {rows} pieces, but its vocabulary has {pieces}: expected as many, for a SentencePiece "
            "cannot be filled up"
        )
