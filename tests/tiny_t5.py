"""Tiny T5s as published and of version 1.1, with random parameters and pairs, for tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.translation import Translator, initial_params
from bert_jax.translation_config import TranslationConfig
from core_jax.sharding import path_name

# No two sizes are equal, so that no axis can stand in for another; heads are not as wide as width / heads.
PUBLISHED = TranslationConfig(
    width=22,
    depth=2,
    encoder_depth=3,
    heads=4,
    head_width=5,
    mlp_width=40,
    gelu="relu",
    norm="pre",
    norm_kind="rms",
    norm_epsilon=1e-6,
    use_bias=False,
    scale_queries=False,
    positions="relative",
    relative_buckets=8,
    relative_distance=7,
    scale_embedding=False,
    scale_output=True,
    vocab_size=56,
    maximum_positions=64,
    dropout=0.0,
    attention_dropout=0.0,
    initializer="t5",
    dtype="float32",
    pad_id=0,
    start_id=0,
    end_id=1,
)
LATER = {"mlp_kind": "gated", "gelu": "tanh", "tied_output": False, "scale_output": False}
LENGTHS = (12, 2, 5, 7)


@functools.cache
def random_params(config, scale=0.15):
    """Parameters, none of them zero; with larger ones the rounding of float32 alone comes near 1e-5."""
    shapes = jax.eval_shape(initial_params(Translator(config)), jax.random.key(0))
    random = np.random.default_rng(0)

    def draw(path, leaf):
        name = path_name(path)
        value = (4 * scale if "token" in name or "relative" in name else scale) * random.standard_normal(leaf.shape)
        return jnp.asarray(value + 1 if name.endswith("scale") else value, jnp.float32)

    return jax.tree.map_with_path(draw, shapes)


def random_pairs(config, width=12):
    """Sources and targets of several lengths, in rows of at least twelve places."""
    random, rows = np.random.default_rng(1), len(LENGTHS)
    names = ("sources", "source_segments", "tokens", "segments", "labels")
    batch = {name: np.zeros((rows, width), np.int32) for name in names}
    for row, length in enumerate(LENGTHS):
        source, target = (random.integers(3, config.vocab_size, size) for size in (length, LENGTHS[-1 - row]))
        source[-1] = target[-1] = config.end_id
        batch["sources"][row, : len(source)], batch["source_segments"][row, : len(source)] = source, 1
        batch["tokens"][row, : len(target)] = [config.start_id, *target[:-1]]
        batch["labels"][row, : len(target)], batch["segments"][row, : len(target)] = target, 1
    batch = jax.tree.map(jnp.asarray, batch)
    return batch | {"weights": {"next": batch["segments"].astype(jnp.float32)}}
