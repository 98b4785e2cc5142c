"""What fine-tuning can start from: any BERT that there is, or a GPT."""

import json
import pathlib
from collections.abc import Callable

from jax.sharding import Mesh

from bert_jax.finetuning import head_of
from bert_jax.finetuning_config import LabelsConfig
from bert_jax.gpt_for_labels import READ
from bert_jax.gpt_starting_points import open_gpt
from bert_jax.starting_points import StartingPoint, check_length, is_fine_tuned, is_gpt, open_starting_point
from core_jax.config import require

GPT = "gpt2"  # what a folder of `transformers` calls it


def open_tuning_start(init: str, labels: LabelsConfig, mesh: Mesh, report: Callable[[str], None]) -> StartingPoint:
    """Reads what --init names.

    Args:
      init: hf:DIR, tf:PREFIX or a work folder.
      labels: the task.
      mesh: where the parameters of a work folder or a GPT go.
      report: is told about checkpoints that cannot be used.
    Raises:
      UserError: nothing is there, it cannot be read, its position table is too short, or it cannot do the task.
    """
    if not _names_gpt(init):
        return open_starting_point(init, mesh, labels.sequence_length, report)
    require(
        head_of(labels) in READ,
        f"--task={labels.task}: a GPT cannot label each token, which would have to see what follows it; start from a "
        f"BERT, or choose one of {', '.join(READ)}",
    )
    opened = open_gpt(init, mesh, "auto", report)
    check_length(init, opened.model.config, labels.sequence_length)
    return StartingPoint(opened.model.config, opened.tokenizer, {"gpt": opened.params})


def _names_gpt(init: str) -> bool:
    if not init.startswith("hf:"):
        return bool(init) and ":" not in init and not is_fine_tuned(init) and is_gpt(init)
    file = pathlib.Path(init.removeprefix("hf:")).expanduser() / "config.json"
    try:
        return json.loads(file.read_text()).get("model_type") == GPT
    except (OSError, ValueError, AttributeError):
        return False  # what is wrong with it is said by whoever reads it
