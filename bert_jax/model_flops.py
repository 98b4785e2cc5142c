"""Operations that pretraining BERT needs: those of useful tokens, however rows are filled up, packed or computed.

Axes: B rows, T positions, P predicted positions, S pairs of a packed row.
"""

import math
from typing import Any

import jax.numpy as jnp

from bert_jax.config import BertConfig
from core_jax.flops import TRAINING, Count, for_each, stack_flops
from core_jax.losses import Ratio


def step_flops(config: BertConfig, tokens: Count, seen: Count, predictions: Count, pairs: Count) -> Count:
    """Operations of the matrix products of a step, forward and backward, without remat.

    Args:
      config: of the model.
      tokens: positions that the encoder computes.
      seen: positions that each of them looks at, added up.
      predictions: positions at which a token is predicted.
      pairs: for which the next sentence is.
    Returns:
      The number. Looking up embeddings is none, and neither are elementwise operations.
    """
    width = config.width
    prediction = 2 * width * (width + config.vocab_size)  # transform and decoder
    pair = 2 * width * (width + 2)  # pooler and classifier
    heads = for_each(predictions, prediction) + for_each(pairs, pair)
    return TRAINING * (stack_flops(config, tokens, seen) + heads)


def useful_flops(config: BertConfig, batch: dict[str, Any]) -> Ratio:
    """What the useful part of a batch needs, and what it would be if nothing were padding.

    A token is useful that is no padding, and it needs to look at those of its own segment alone; a prediction or a pair
    is useful that has a weight. So an example counts the same, alone in a row or packed with others, padded or not.

    Args:
      config: of the model.
      batch: of `PretrainingExamples` or `PackedPairs`; positions in a segment count 0, 1, ...
    Returns:
      (operations of a step that are needed, those of rows that are one segment each and full).
    """
    segments, weights = batch["segments"], batch["weights"]
    length = segments.shape[1]
    is_useful = segments > 0
    positions = batch.get("positions", jnp.arange(length)[None])
    # A segment of L tokens has L x L pairs of them, which is the sum of the first L odd numbers. Whole numbers in each
    # row, since float32 would round them.
    seen = jnp.sum(jnp.where(is_useful, 2 * positions + 1, 0), axis=1)
    counts = is_useful, seen, weights["mlm"] > 0, weights["nsp"] > 0
    needed = step_flops(config, *(jnp.sum(count, dtype=jnp.float32) for count in counts))
    return jnp.asarray(needed), jnp.float32(whole_flops(config, batch))


def whole_flops(config: BertConfig, batch: dict[str, Any]) -> int:
    """Operations of a step on rows that are one segment each and full.

    Args:
      config: of the model.
      batch: of `PretrainingExamples` or `PackedPairs`, or its shapes.
    """
    rows, length = batch["segments"].shape
    predictions, pairs = (math.prod(batch["weights"][name].shape) for name in ("mlm", "nsp"))
    return int(step_flops(config, rows * length, rows * length**2, predictions, pairs))
