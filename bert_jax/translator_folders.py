"""Which translators of `transformers` are known, and what reads and writes the folders of each."""

import types

from bert_jax import t5_weights, translation_weights
from bert_jax.translation_config import TranslationConfig
from core_jax.config import require
from core_jax.model_folders import model_type

KINDS: dict[str, types.ModuleType] = {"marian": translation_weights, "t5": t5_weights}  # by what they call themselves


def names_known(place: str) -> bool:
    """Whether hf:DIR is a translator."""
    return model_type(place) in KINDS


def kind_of(place: str) -> types.ModuleType:
    """What reads hf:DIR: ARCHITECTURE, `from_peer_config`, `read_hf`, `read_vocabulary`, `write_hf`.

    Raises:
      UserError: it is no translator.
    """
    found = model_type(place)
    require(
        found in KINDS,
        f"{place} is {f'of type {found}' if found else 'no folder of a model'}; expected that of a translator of "
        f"transformers: {', '.join(KINDS)}",
    )
    return KINDS[found]


def kind_for(config: TranslationConfig) -> types.ModuleType:
    """What writes a translator of a config as a folder: as `kind_of`."""
    return t5_weights if config.positions == "relative" else translation_weights
