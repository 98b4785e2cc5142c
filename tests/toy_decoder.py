"""A model that decodes, small enough to be followed by hand: a recurrent network with random weights.

Axes: B rows, T tokens, D width, V vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np

VOCABULARY, WIDTH = 29, 8


def toy_params(seed: int = 0) -> dict:
    random = np.random.default_rng(seed)
    shapes = {"embedding": (VOCABULARY, WIDTH), "recurrence": (WIDTH, WIDTH), "out": (WIDTH, VOCABULARY)}
    return {name: jnp.asarray(1.5 * random.standard_normal(shape), jnp.float32) for name, shape in shapes.items()}


def toy_step(params, tokens, cache):
    """The next hidden state, which is all that there is to a cache here, and the logits that it gives."""
    hidden = jnp.tanh(params["embedding"][tokens] + cache @ params["recurrence"])
    return hidden @ params["out"], hidden


def toy_prefill(params, prompts):
    """Prompts, a list of lists -> logits and cache of all of them."""
    found = []
    for prompt in prompts:
        logits, cache = None, jnp.zeros((1, WIDTH))
        for token in prompt:
            logits, cache = toy_step(params, jnp.array([token]), cache)
        found.append((logits, cache))
    return tuple(jnp.concatenate(parts) for parts in zip(*found, strict=True))


def take_toy_rows(cache, rows):
    return cache[rows]


def logits_after(params, tokens) -> np.ndarray:
    """What comes after a row of tokens, step by step in NumPy."""
    weights = jax.device_get(params)
    hidden = np.zeros(WIDTH, np.float32)
    for token in tokens:
        hidden = np.tanh(weights["embedding"][token] + hidden @ weights["recurrence"])
    return hidden @ weights["out"]
