"""What fine-tuning can start from: any BERT that there is, or a GPT."""

from collections.abc import Callable

from jax.sharding import Mesh

from bert_jax.finetuning import head_of
from bert_jax.finetuning_config import LabelsConfig
from bert_jax.gpt_for_labels import READ
from bert_jax.gpt_starting_points import open_gpt
from bert_jax.starting_points import StartingPoint, check_length, names_gpt, open_starting_point
from core_jax.config import require


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
    if not (init and names_gpt(init)):
        return open_starting_point(init, mesh, labels.sequence_length, report)
    require(
        head_of(labels) in READ,
        f"--task={labels.task}: a GPT cannot label each token, which would have to see what follows it; start from a "
        f"BERT, or choose one of {', '.join(READ)}",
    )
    opened = open_gpt(init, mesh, "auto", report)
    check_length(init, opened.model.config, labels.sequence_length)
    return StartingPoint(opened.model.config, opened.tokenizer, {"gpt": opened.params})
