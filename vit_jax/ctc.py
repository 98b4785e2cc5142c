"""Connectionist temporal classification: letters are learned without being told where they are said.

Axes: B recordings, T positions, N letters of a transcript, K outputs: a blank, then the letters.
Source: Graves et al. 2006, https://doi.org/10.1145/1143844.1143891
"""

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from core_jax.losses import Ratio
from vit_jax.audio_encoder import is_heard

BLANK = 0  # output that says that no letter begins here


def ctc_loss(
    logits: Float[Array, "B T K"], positions: Int[Array, " B"], labels: Int[Array, "B N"], weights: Float[Array, "B N"]
) -> Ratio:
    """The negative logarithm of the probability of all ways to say the letters of each transcript.

    Args:
      logits: any float dtype; computed in float32.
      positions: of each recording that count: the first ones.
      labels: letters as outputs, no blank among them.
      weights: 1 for a letter, 0 behind the last one and for all of a row that counts for nothing.
    Returns:
      (sum over recordings, in nats, number of their letters).
    """
    beyond = 1.0 - is_heard(positions, logits.shape[1])
    losses = optax.ctc_loss(logits.astype(jnp.float32), beyond, labels, 1.0 - (weights > 0), blank_id=BLANK)
    counted = jnp.any(weights > 0, axis=1)
    return jnp.sum(jnp.where(counted, losses, 0.0)), jnp.sum(weights)


def needed_positions(letters: Int[np.ndarray, " N"]) -> int:
    """How many positions a transcript needs: one for each letter, and a blank between two that are alike."""
    return len(letters) + int(np.sum(letters[1:] == letters[:-1]))


def best_path(logits: Float[np.ndarray, "T K"]) -> Int[np.ndarray, " N"]:
    """The letters of the most probable output at each position: repeated ones are one, blanks are left out."""
    outputs = np.argmax(logits, axis=-1)
    begins = np.concatenate([[True], outputs[1:] != outputs[:-1]])
    return outputs[begins & (outputs != BLANK)]
