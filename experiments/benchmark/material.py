"""Makes what both sides read: the text's pairs, their packed rows, and one set of weights."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import PyTree

from bert_jax.config import PRESETS, BertPretraining
from bert_jax.packed_pairs import PackedPairs
from bert_jax.pretraining import Text, prepare_text, resolve_model
from bert_jax.tasks import initial_params
from core_jax.config import OptimizerConfig
from core_jax.data import Order
from core_jax.errors import UserError
from core_jax.sharding import by_path
from experiments.benchmark.modes import TASKS
from experiments.benchmark.pairs import MEGABATCH, Pair, save_pairs
from experiments.benchmark.workplace import Workplace

DROPOUT = 0.1  # in training, on both sides, as in the original
NOISE = 0.02  # on every weight, so that none is 0 or 1 and no term of the model can go missing unnoticed


def configure(preset: str, data: str, sequence_length: int) -> BertPretraining:
    """The model and the recipe of both sides: the preset's sizes, dropout 0.1, plain AdamW at a constant rate."""
    base = PRESETS[preset]
    return dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, dropout=DROPOUT, attention_dropout=DROPOUT),
        text=dataclasses.replace(base.text, data=data, sequence_length=sequence_length, packing=True),
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=0, schedule="constant"),
    )


def make_material(
    folder: str,
    text_folder: str,
    preset: str,
    data: str,
    lengths: list[int],
    positions: int,
    say: Callable[[str], None],
) -> None:
    """Writes all files of a `Workplace`.

    Args:
      folder: for the files.
      text_folder: keeps vocabulary and tokenised text for the next time.
      preset: of the model.
      data: as `--data` of pretraining.
      lengths: of rows.
      positions: of a batch: rows times length.
      say: is told what is being made.
    Raises:
      UserError: the text cannot be read, or is too small.
    """
    for number, length in enumerate(lengths):
        work = Workplace(folder, TASKS[0], length)
        config = configure(preset, data, length)
        text = prepare_text(config, text_folder, say)
        model = resolve_model(config.model, text.tokenizer)
        work.save_config(dataclasses.replace(config, model=model.config), text.tokenizer.pad_id)
        _save_batches(work, text, max(positions // length, 1))
        if not number:
            params = jax.jit(initial_params(model))(jax.random.key(0))
            np.savez(work.weights_file, allow_pickle=False, **noisy(params))


def noisy(params: PyTree) -> dict[str, np.ndarray]:
    """Fresh parameters by path, with noise on each."""
    random = np.random.default_rng(0)
    return {
        name: np.asarray(leaf) + NOISE * random.standard_normal(leaf.shape, np.float32)
        for name, leaf in by_path(params).items()
    }


def _save_batches(work: Workplace, text: Text, rows: int) -> None:
    packed = text.train
    assert isinstance(packed, PackedPairs)
    batches = min(len(packed) // rows, MEGABATCH)
    if not batches:
        raise UserError(
            f"the text gives {len(packed)} packed rows of {work.sequence_length}, fewer than a batch of {rows}: "
            "give more text, or a smaller --batch_size"
        )
    order = Order(len(packed), 0)
    numbers = [order(position)[1] for position in range(batches * rows)]
    parts = [numbers[start : start + rows] for start in range(0, len(numbers), rows)]
    save_pairs(work.pairs_file, [[Pair(*pair) for row in part for pair in packed.row(0, row)] for part in parts])
    examples = [[packed.example(0, row) for row in part] for part in parts]
    stacked = {str(number): jax.tree.map(lambda *x: np.stack(x), *part) for number, part in enumerate(examples)}
    np.savez(work.rows_file, allow_pickle=False, **by_path(stacked))
