"""What a task can start from: a Hugging Face folder, an original checkpoint, or the work folder of a run."""

import dataclasses
from collections.abc import Callable

from jax.sharding import Mesh
from jaxtyping import PyTree

from bert_jax.config import BertConfig
from bert_jax.finetuning import open_label_model
from bert_jax.gpt_config import GptConfig
from bert_jax.prepared_text import is_foreign
from bert_jax.pretraining import open_trained
from bert_jax.starting_weights import read_foreign
from bert_jax.tokenizer import Tokenizer
from bert_jax.translator_folders import names_known
from core_jax.config import require
from core_jax.model_folders import model_type
from core_jax.workdir import read_run_fields

GPT = "gpt2"  # what `transformers` calls it


@dataclasses.dataclass(frozen=True)
class StartingPoint:
    """A pretrained BERT, or GPT."""

    config: BertConfig | GptConfig
    tokenizer: Tokenizer
    params: PyTree  # with "bert" or "gpt", and whatever heads there are


def is_fine_tuned(workdir: str) -> bool:
    """Whether a work folder is of `experiments.finetune`.

    Raises:
      UserError: it is of no run.
    """
    return "tuning" in read_run_fields(workdir)


def is_gpt(workdir: str) -> bool:
    """Whether a work folder is of a GPT.

    Raises:
      UserError: it is of no run.
    """
    model = read_run_fields(workdir).get("model")
    return isinstance(model, dict) and model.get("causal") is True


def names_gpt(place: str) -> bool:
    """Whether a place is the work folder of a pretrained GPT, or hf:DIR of one.

    Raises:
      UserError: it is a folder of no run.
    """
    return model_type(place) == GPT if ":" in place else is_gpt(place)


def is_translator(workdir: str) -> bool:
    """Whether a work folder is of a translator.

    Raises:
      UserError: it is of no run.
    """
    return "pairs" in read_run_fields(workdir)


def names_translator(place: str) -> bool:
    """Whether a place is the work folder of a translator, or hf:DIR of one.

    Raises:
      UserError: it is a folder of no run.
    """
    return names_known(place) if ":" in place else is_translator(place)


def open_starting_point(init: str, mesh: Mesh, sequence_length: int, report: Callable[[str], None]) -> StartingPoint:
    """Reads what --init names.

    Args:
      init: hf:DIR, tf:PREFIX or a work folder.
      mesh: where the parameters of a work folder go.
      sequence_length: tokens of the texts that it is wanted for, at most.
      report: is told about checkpoints that cannot be used.
    Raises:
      UserError: nothing is there, it cannot be read, or its position table is too short.
    """
    start = _open(init, mesh, report)
    check_length(init, start.config, sequence_length)
    return start


def check_length(init: str, config: BertConfig | GptConfig, sequence_length: int) -> None:
    """Raises UserError where texts are longer than what --init names can read."""
    longest = config.maximum_positions
    require(
        sequence_length <= longest,
        f"--sequence_length={sequence_length} is longer than the position table of {init}: "
        f"use --sequence_length={longest} or less",
    )


def _open(init, mesh, report) -> StartingPoint:
    require(bool(init), "--init=: expected what to start from: hf:DIR, tf:PREFIX, or the work folder of a run")
    if is_foreign(init):
        imported = read_foreign(init)
        return StartingPoint(imported.config, imported.tokenizer, imported.params)
    if is_fine_tuned(init):
        tuned = open_label_model(init, mesh, report)
        return StartingPoint(tuned.model.config, tuned.tokenizer, tuned.params)
    require(not is_gpt(init), f"--init={init} is a GPT, which has no state of a whole text; expected a BERT")
    trained = open_trained(init, mesh, report)
    return StartingPoint(trained.model.config, trained.tokenizer, trained.params)
