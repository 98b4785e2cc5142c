"""What `experiments.evaluate` does with a fine-tuned model: scores any labelled set."""

import json
from collections.abc import Callable

from jax.sharding import Mesh

from bert_jax import finetuning
from bert_jax.answers import baseline, collect_answers, score_answers
from bert_jax.foreign_label_models import open_any_label_model
from bert_jax.labelling import make_answers
from bert_jax.prepared_text import is_foreign
from core_jax.config import require
from core_jax.workdir import write_atomically
from experiments import tuning_results
from experiments.console import say

BATCH = 64


def score(
    init: str, data: str, split: str, data_dir: str, output: str, mesh: Mesh, stopping: Callable[[], bool]
) -> dict[str, float] | None:
    """Scores labelled examples, each once, and prints the scores.

    Args:
      init: work folder of a fine-tuning run, or hf:DIR.
      data: as for fine-tuning; empty: the examples that the run was validated on.
      split: of a dataset.
      data_dir: folder of TFDS datasets.
      output: file for the scores as JSON, or nothing.
      mesh: where it is computed.
      stopping: asked after each batch.
    Returns:
      The scores, or None where `stopping()` became true.
    Raises:
      UserError: the run or the examples cannot be read, or do not fit each other.
    """
    require(
        bool(data) or not is_foreign(init), f"--data=: expected labelled texts, for {init} was validated on none here"
    )
    tuned = open_any_label_model(init, mesh, say)
    labels, columns = tuned.labels, finetuning.columns_of(tuned.labels)
    if data:
        records = finetuning.read_labelled(labels, data, split, data_dir=data_dir)
    else:
        _, records, _ = finetuning.read_sets(labels)
    examples = finetuning.encode(labels, records, tuned.tokenizer, tuned.classes)
    answers = collect_answers(
        make_answers(tuned.model),
        tuned.params,
        examples,
        mesh,
        batch_size=BATCH,
        sequence_length=labels.sequence_length,
        context_column=columns.text,
        stopping=stopping,
    )
    if answers is None:
        return None
    scores = score_answers(answers, examples, columns, tuned.classes, may_be_empty=tuned.may_be_empty)
    name = data or "validation"
    title = f"{labels.task} in {init}: {len(records):,} examples"
    tuning_results.show_scores(title, labels.task, {name: scores}, baseline(examples))
    if output:
        write_atomically(output, json.dumps({"data": name, "examples": len(records)} | scores, indent=2) + "\n")
    return scores
