"""Batches of labelled texts for runs that are trained side by side: each seed's own examples, in rows of one shape.

What a seed learns from is what it would learn from alone; only padding is added.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, PyTree

from bert_jax.labelled_rows import (
    LabelledTexts,
    draw_examples,
    lay_labelled,
    made_ahead,
    plan_texts,
    rounded_rows,
    without_places,
)
from core_jax.data import Order
from core_jax.sharding import batch_parts
from core_jax.side_by_side import stacked_batch


def pack_seeds(
    data: LabelledTexts,
    drawn: Sequence[Int[np.ndarray, " G"]],
    sequence_length: int,
    multiple: int,
    seeds: Sequence[int],
) -> list[dict[str, Any]]:
    """One batch of each seed, all of one shape.

    Args:
      data: all texts.
      drawn: examples of each seed's batch, equally many.
      sequence_length: positions of a row at most.
      multiple: of the rows of a batch.
      seeds: of the runs.
    Returns:
      As `pack_texts`, of each seed.
    """
    plans = [plan_texts(data, own, sequence_length, seed) for own, seed in zip(drawn, seeds, strict=True)]
    capacity = max(longest for _, longest in plans)
    rows = max(rounded_rows(len(texts), multiple) for texts, _ in plans)
    return [
        lay_labelled(data, own, texts, capacity, rows, multiple) for own, (texts, _) in zip(drawn, plans, strict=True)
    ]


def batches_of_seeds(
    data: LabelledTexts,
    mesh: Mesh,
    *,
    batch_size: int,
    sequence_length: int,
    seeds: Sequence[int],
    first_step: int,
    last_step: int,
) -> Iterator[PyTree]:
    """The stacked batches of steps first_step .. last_step - 1, made ahead in the background.

    Args:
      data: to draw from, each seed in an order of its own.
      mesh: from `split_mesh`.
      batch_size: examples of a batch of each seed.
      sequence_length: positions of a row at most.
      seeds: of the runs.
      first_step: number of steps already taken.
      last_step: number of steps at which the runs end.
    """
    orders, multiple = [Order(len(data), seed) for seed in seeds], batch_parts(mesh)

    def draw(step: int) -> list[dict[str, Any]]:
        drawn = [draw_examples(order, step, batch_size) for order in orders]
        return pack_seeds(data, drawn, sequence_length, multiple, seeds)

    for batches in made_ahead(draw, first_step, last_step):
        yield stacked_batch([without_places(batch) for batch in batches], mesh)
