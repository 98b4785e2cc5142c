"""What a recogniser learns: to write each next piece of what is said.

Axes: B recordings, F frames, M mel bands, T pieces.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from bert_jax.gpt_config import GptConfig
from core_jax.encoder_decoder import EncoderDecoder
from core_jax.flops import TRAINING, stack_flops
from core_jax.losses import cross_entropy, objective
from core_jax.metrics import accuracy
from core_jax.train import Loss, Metrics
from vit_jax.audio_encoder import STRIDE, AudioEncoderConfig
from vit_jax.audio_tasks import encoder_flops, heard_seconds


def transcript_loss(model: EncoderDecoder, *, train: bool) -> Loss:
    """Prediction of each next piece of a transcript.

    Args:
      model: whose parameters are trained.
      train: whether dropout is on.
    Returns:
      loss(params, batch, key); the scalar is the mean over all pieces that are predicted. A batch has spectrograms
      [B, F, M]; tokens, segments and labels, each [B, T]; and what each label counts as `weights["next"]`. Silence
      behind a recording is heard, as when a model transcribes.
    Source: Radford et al. 2022, section 2.3, https://arxiv.org/abs/2212.04356
    """

    def loss(params: PyTree, batch: dict[str, Any], key: Key[Array, ""]) -> tuple[Float[Array, ""], Metrics]:
        inputs = batch["spectrograms"], batch["tokens"], batch["segments"]
        logits: Any = model.apply({"params": params}, *inputs, train=train, rngs={"dropout": key})
        weights = batch["weights"]["next"]
        metrics = {
            "next_loss": cross_entropy(logits, batch["labels"], weights),
            "next_accuracy": accuracy(logits, batch["labels"], weights),
            "useful_seconds": heard_seconds(batch),
        }
        return objective({"next": metrics["next_loss"]}, batch.get("totals")), metrics

    return loss


def step_flops(encoder: AudioEncoderConfig, decoder: GptConfig, batch: dict[str, Any]) -> int:
    """Operations of the matrix products of a step, forward and backward, without remat, on full windows.

    Args:
      encoder, decoder: the model.
      batch: arrays or shapes.
    """
    (rows, frames), length = batch["spectrograms"].shape[:2], batch["tokens"].shape[1]
    positions, width = frames // STRIDE, encoder.width
    heard = encoder_flops(encoder, frames)
    written = stack_flops(decoder, length, length * (length + 1) // 2) + 2 * length * width * decoder.vocab_size
    # Looking at what was heard: queries and outputs of each piece, keys and values of each position, and both products.
    looked = decoder.depth * (4 * width**2 * (length + positions) + 4 * length * positions * width)
    return TRAINING * rows * (heard + written + looked)


def batch_shapes(rows: int, encoder: AudioEncoderConfig, length: int) -> dict[str, Any]:
    """Shapes and dtypes of a batch of so many rows, with transcripts of so many pieces."""

    def shape(*sizes: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *sizes), dtype)

    return {
        "spectrograms": shape(encoder.frames, encoder.mel_bands, dtype=jnp.float32),
        "frames": shape(),
        **{name: shape(length) for name in ("tokens", "segments", "labels")},
        "weights": {"next": shape(length, dtype=jnp.float32)},
    }
