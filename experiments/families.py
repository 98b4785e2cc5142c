"""The families of models that the commands know, by their configurations."""

from bert_jax.config import PRESETS as BERT_PRESETS
from bert_jax.config import BertPretraining
from bert_jax.family import BertFamily
from bert_jax.gpt_answers_family import GptAnswersFamily
from bert_jax.gpt_config import PRESETS as GPT_PRESETS
from bert_jax.gpt_config import GptAnswers, GptPretraining
from bert_jax.gpt_family import GptFamily
from core_jax.family import Family
from core_jax.workdir import read_run_fields
from experiments.speech.config import Transcribing
from experiments.speech.family import TranscriptionFamily
from experiments.speech.hearing_config import SoundClassification, Spelling
from experiments.speech.hearing_families import SoundFamily, SpellingFamily
from vit_jax.family import VitFamily
from vit_jax.foreign_weights import is_foreign, split_place
from vit_jax.mae_family import MaeFamily
from vit_jax.presets import PRESETS as VIT_PRESETS
from vit_jax.presets import VitPretraining

Pretraining = (
    BertPretraining | GptPretraining | GptAnswers | VitPretraining | Transcribing | SoundClassification | Spelling
)
PRESETS: dict[str, Pretraining] = {**BERT_PRESETS, **GPT_PRESETS, **VIT_PRESETS}


def family_of(config: Pretraining) -> Family:
    """Whose configuration it is."""
    if isinstance(config, GptPretraining | GptAnswers):
        return GptFamily() if isinstance(config, GptPretraining) else GptAnswersFamily()
    if isinstance(config, Transcribing):
        return TranscriptionFamily()
    if isinstance(config, SoundClassification | Spelling):
        return SoundFamily() if isinstance(config, SoundClassification) else SpellingFamily()
    if not isinstance(config, VitPretraining):
        return BertFamily()
    return MaeFamily() if config.objective == "mae" else VitFamily()


def is_of_images(place: str) -> bool:
    """Whether a work folder, or a place of another program's model, is of a model of images.

    Raises:
      UserError: it is a folder of no run.
    """
    return is_foreign(place) if split_place(place)[0] else "images" in read_run_fields(place)
