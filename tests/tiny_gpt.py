"""A GPT small enough to compile in seconds, parameters of which none is 0 or 1, and texts of several lengths."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.gpt import Gpt
from bert_jax.gpt_config import GptConfig
from bert_jax.gpt_tasks import initial_params
from core_jax.sharding import path_name

# No two sizes are equal, so that no axis can stand in for another.
CONFIG = GptConfig(
    width=24,
    depth=2,
    heads=4,
    mlp_width=40,
    vocab_size=54,
    maximum_positions=17,
    dropout=0.0,
    attention_dropout=0.0,
    dtype="float32",
)
SCALE = 0.12  # of random weights: twice as large, and float32 no longer keeps five digits


def changed(**changes) -> GptConfig:
    return dataclasses.replace(CONFIG, **changes)


def random_params(config: GptConfig = CONFIG, seed: int = 0) -> dict:
    """Parameters of the unrolled model."""
    random = np.random.default_rng(seed)
    shapes = jax.eval_shape(initial_params(Gpt(dataclasses.replace(config, scan_layers=False))), jax.random.key(0))

    def draw(path, leaf):
        value = SCALE * random.standard_normal(leaf.shape)
        return jnp.asarray(value + 1 if path_name(path).endswith("scale") else value, jnp.float32)

    return jax.tree.map_with_path(draw, shapes)


def random_tokens(rows: int, length: int, seed: int = 0, config: GptConfig = CONFIG) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(0, config.vocab_size, (rows, length), dtype=np.int32))


def padded(tokens: jax.Array, lengths: tuple[int, ...], side: str, filler: int) -> tuple[jax.Array, jax.Array]:
    """The first tokens of each row with padding on a side, and which of them are real."""
    longest = max(lengths)
    rows, valid = np.full((len(lengths), longest), filler, np.int32), np.zeros((len(lengths), longest), bool)
    for row, length in enumerate(lengths):
        place = slice(0, length) if side == "right" else slice(longest - length, longest)
        rows[row, place], valid[row, place] = np.asarray(tokens)[row, :length], True
    return jnp.asarray(rows), jnp.asarray(valid)
