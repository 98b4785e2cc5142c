"""Translators of work folders and of folders of `transformers` (Marian, T5), opened to go on with or to use."""

import dataclasses
import os
import pathlib

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from bert_jax.parallel_texts import with_vocabulary
from bert_jax.pretraining import identity
from bert_jax.tokenizer import Tokenizer
from bert_jax.tokenizer_files import load_tokenizer
from bert_jax.translation import Translator, initial_params
from bert_jax.translation_config import PRESETS, Translation, TranslationConfig
from bert_jax.translator import BatchTranslator
from bert_jax.translator_files import read_search, unrolled_params
from bert_jax.translator_folders import kind_of
from core_jax.beam_search import BeamSettings
from core_jax.checkpoints import check_saved, restore_params
from core_jax.config import require
from core_jax.sharding import batch_parts, on_mesh, tree_shardings, with_shardings
from core_jax.transformer import stack_layers
from core_jax.workdir import read_config
from experiments.console import say
from experiments.epoch_scores import BEST

FOREIGN = "hf:"
ROWS = 32  # sentences that are translated together, at most
ARCHITECTURE = (
    *("width", "depth", "encoder_depth", "heads", "mlp_width", "vocab_size", "maximum_positions", "norm"),
    *("norm_epsilon", "gelu", "scale_embedding", "pad_id", "start_id", "end_id"),
    *("positions", "type_vocab_size", "starts_sources", "norm_kind", "mlp_kind", "use_bias", "head_width"),
    *("scale_queries", "relative_buckets", "relative_distance", "tied_output", "scale_output"),
)


@dataclasses.dataclass(frozen=True)
class OpenTranslator:
    """A trained translator."""

    config: Translation  # of its run; of a folder of `transformers` what it would be
    model: TranslationConfig
    tokenizer: Tokenizer
    params: PyTree


def open_trained(place: str, mesh: Mesh) -> OpenTranslator:
    """What a work folder or hf:DIR holds, with parameters on a mesh.

    Raises:
      UserError: the work folder holds no finished epoch of a translator, the other no Marian or T5.
    """
    config, tokenizer = read_config_of(place), open_vocabulary(place)
    model = with_vocabulary(config.model, tokenizer)
    return OpenTranslator(config, model, tokenizer, open_params(place, model, tokenizer, mesh))


def check_start(place: str) -> None:
    """Refuses what cannot be started from before any text is read.

    Raises:
      UserError: there is no translator, or no finished epoch of one.
    """
    open_vocabulary(place)
    if not place.startswith(FOREIGN):
        check_saved(os.path.join(place, BEST))


def read_config_of(place: str) -> Translation:
    """The configuration of a work folder, or that which fits hf:DIR.

    Raises:
      UserError: there is none.
    """
    if not place.startswith(FOREIGN):
        return read_config(place, Translation)
    folder = _folder(place)
    base, search = PRESETS["translation-base"], read_search(folder)
    model = kind_of(place).from_peer_config(folder / "config.json")
    length = min(base.pairs.sequence_length, model.maximum_positions)
    pairs = dataclasses.replace(base.pairs, sequence_length=length)
    found = {"model": model, "pairs": pairs, "beams": search.beams, "length_penalty": search.length_penalty}
    return dataclasses.replace(base, **found)


def open_vocabulary(place: str) -> Tokenizer:
    """The vocabulary of a work folder or hf:DIR.

    Raises:
      UserError: there is none, or it does not fit the model.
    """
    if not place.startswith(FOREIGN):
        return load_tokenizer(os.path.join(place, "tokenizer"))
    folder, kind = _folder(place), kind_of(place)
    return kind.read_vocabulary(folder, kind.from_peer_config(folder / "config.json"))


def open_params(place: str, model: TranslationConfig, tokenizer: Tokenizer, mesh: Mesh) -> PyTree:
    """The parameters of hf:DIR, or the best ones of a run, on a mesh.

    Args:
      place: hf:DIR or a work folder.
      model: that they are for; it may be scanned.
      tokenizer: that they belong to.
      mesh: where they go.
    Raises:
      UserError: there are none, or of another model or vocabulary.
    """
    if not place.startswith(FOREIGN):
        shapes = with_shardings(jax.eval_shape(initial_params(Translator(model)), jax.random.key(0)), mesh)
        return restore_params(os.path.join(place, BEST), shapes, identity=identity(tokenizer), report=say)
    require(identity(tokenizer) == identity(open_vocabulary(place)), f"{place} was trained with another vocabulary")
    params = kind_of(place).read_hf(_folder(place)).params
    if model.scan_layers:
        params |= {name: jax.device_get(stack_layers(params[name])) for name in ("encoder", "decoder")}
    return jax.device_put(params, tree_shardings(params, mesh))


def _folder(place):
    return pathlib.Path(place.removeprefix(FOREIGN)).expanduser()


def batch_translator(
    model: TranslationConfig, params: PyTree, config: Translation, mesh: Mesh, count: int
) -> BatchTranslator:
    """Beam search with the parameters of a run; its layers are unrolled, since a step of one token is faster so.

    Args:
      model: of the parameters.
      params: of the run, or shapes of unrolled ones, to plan with.
      config: of the run, for its beams.
      mesh: where they are computed.
      count: sentences to translate; as many as are there at once, up to ROWS, are a batch.
    """
    search = BeamSettings(beams=config.beams, length_penalty=config.length_penalty)
    parts = batch_parts(mesh)
    rows = -(-min(ROWS, count) // parts) * parts
    params = unrolled_params(params) if model.scan_layers else params
    model = dataclasses.replace(model, scan_layers=False)
    params = on_mesh(params, mesh)
    return BatchTranslator(Translator(model), params, search, mesh, rows=rows)
