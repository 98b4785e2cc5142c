"""The families of models that the commands know, by their configurations."""

import json
from typing import Any

from etils import epath

from bert_jax.config import PRESETS as BERT_PRESETS
from bert_jax.config import BertPretraining
from bert_jax.family import BertFamily
from bert_jax.gpt_answers_family import GptAnswersFamily
from bert_jax.gpt_config import PRESETS as GPT_PRESETS
from bert_jax.gpt_config import GptAnswers, GptPretraining
from bert_jax.gpt_family import GptFamily
from core_jax.config import require
from core_jax.errors import UserError
from core_jax.family import Family
from vit_jax.family import VitFamily
from vit_jax.mae_family import MaeFamily
from vit_jax.presets import PRESETS as VIT_PRESETS
from vit_jax.presets import VitPretraining

Pretraining = BertPretraining | GptPretraining | GptAnswers | VitPretraining
PRESETS: dict[str, Pretraining] = {**BERT_PRESETS, **GPT_PRESETS, **VIT_PRESETS}


def family_of(config: Pretraining) -> Family:
    """Whose configuration it is."""
    if isinstance(config, GptPretraining | GptAnswers):
        return GptFamily() if isinstance(config, GptPretraining) else GptAnswersFamily()
    if not isinstance(config, VitPretraining):
        return BertFamily()
    return MaeFamily() if config.objective == "mae" else VitFamily()


def is_of_images(workdir: str) -> bool:
    """Whether a work folder is of a model of images; otherwise it is of a model of text.

    Raises:
      UserError: it is of no run.
    """
    path = epath.Path(workdir) / "config.json"
    require(path.exists(), f"{workdir} is not a work folder: it has no config.json; expected the --workdir of a run")
    try:
        found: Any = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); expected what a run of this version wrote") from error
    return isinstance(found, dict) and "images" in found
