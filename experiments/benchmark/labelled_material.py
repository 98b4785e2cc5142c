"""Makes what both sides read to fine-tune and to embed: texts as ids, and one set of weights."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from bert_jax.labelled_rows import draw_examples
from bert_jax.labelled_texts import join_pair
from bert_jax.labelling import initial_label_params
from bert_jax.model import BertForLabels
from bert_jax.pretraining import prepare_text, resolve_model
from bert_jax.tokenizer import Tokenizer
from bert_jax.weights import read_hf
from core_jax.config import require
from core_jax.data import Order
from core_jax.labelled_data import read_records
from core_jax.labelled_samples import NO_TOPIC
from core_jax.sharding import by_path
from experiments.benchmark.material import configure, noisy
from experiments.benchmark.modes import Task
from experiments.benchmark.pairs import MEGABATCH, Pair, save_pairs
from experiments.benchmark.workplace import Workplace

EXAMPLES = 32  # of a step of fine-tuning, on either side
PEER_TEXTS = 32  # that the peer embeds together: the default of sentence-transformers
COLUMNS = {"sample": ("text", "topic")}  # of text and label; of other data they are called so


@dataclasses.dataclass(frozen=True)
class LabelledSource:
    """Which texts and which model."""

    preset: str  # of a model with random weights, and of a vocabulary trained from the text
    init: str  # hf:DIR, in place of both; or empty
    data: str  # as `--data` of fine-tuning
    texts: int  # to embed at most


def make_labelled_material(
    folder: str, text_folder: str, source: LabelledSource, tasks: Sequence[Task], lengths: list[int], say: Callable
) -> None:
    """Writes all files of the `Workplace`s of fine-tuning and embedding.

    Args:
      folder: for the files.
      text_folder: keeps a trained vocabulary for the next time.
      source: texts and model.
      tasks: "finetuning", "embedding" or both.
      lengths: tokens of a text at most.
      say: is told what is being made.
    Raises:
      UserError: texts or weights cannot be read, or are too few.
    """
    text_column, label_column = COLUMNS.get(source.data, ("text", "label"))
    records = read_records(source.data, [text_column, label_column])
    classes = sorted({str(record[label_column]) for record in records} - {NO_TOPIC})
    ids = None
    for number, length in enumerate(lengths):
        config, tokenizer, params = _open_model(source, text_folder, length, say)
        if ids is None:
            ids = tokenizer.encode([str(record[text_column]) for record in records])
        labels = [classes.index(name) if (name := str(r[label_column])) in classes else -1 for r in records]
        texts = [_pair(tokenizer, *text, length) for text in zip(ids, labels, strict=True)]
        for task in tasks:
            work = Workplace(folder, task, length)
            save_pairs(work.pairs_file, _batches(task, texts, source))
            work.save_config(config, tokenizer.pad_id)
            if not number:
                np.savez(work.weights_file, allow_pickle=False, **_with_classifier(config.model, params, len(classes)))


def _open_model(source, text_folder, length, say):
    config = configure(source.preset, source.data, length)
    if source.init:
        imported = read_hf(source.init.removeprefix("hf:"))
        longest = imported.config.maximum_positions
        require(length <= longest, f"--sequence_lengths={length}: {source.init} has {longest} positions")
        model = dataclasses.replace(
            imported.config, dropout=config.model.dropout, attention_dropout=config.model.attention_dropout
        )
        return dataclasses.replace(config, model=model), imported.tokenizer, imported.params
    tokenizer = prepare_text(config, text_folder, say).tokenizer
    return dataclasses.replace(config, model=resolve_model(config.model, tokenizer).config), tokenizer, None


def _with_classifier(config: Any, params: Any, classes: int) -> dict[str, np.ndarray]:
    """A fresh model, with the encoder that there is in its place; random weights get noise, as those of pretraining."""
    fresh = jax.jit(initial_label_params(BertForLabels(config, "classification", classes)))(jax.random.key(0))
    if params is None:
        return noisy(fresh)
    return {name: np.asarray(leaf) for name, leaf in by_path(fresh | {"bert": fresh["bert"] | params["bert"]}).items()}


def _pair(tokenizer: Tokenizer, ids: Sequence[int], label: int, length: int) -> Pair:
    tokens = join_pair(tokenizer, ids, None, length)[0]
    nothing = np.zeros(0, np.int32)
    return Pair(tokens, np.zeros_like(tokens), nothing, nothing, label)


def _batches(task: Task, texts: list[Pair], source: LabelledSource) -> list[list[Pair]]:
    if task == "embedding":
        texts = texts[: source.texts]
        return [texts[start : start + PEER_TEXTS] for start in range(0, len(texts), PEER_TEXTS)]
    texts = [text for text in texts if text.label >= 0]
    count = min(len(texts) // EXAMPLES, MEGABATCH)
    require(count > 0, f"{source.data} gives {len(texts)} labelled texts, fewer than a batch of {EXAMPLES}")
    order = Order(len(texts), 0)
    return [[texts[number] for number in draw_examples(order, step, EXAMPLES)] for step in range(count)]
