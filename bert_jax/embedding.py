"""Sentence embeddings: one vector for each text, from packed rows.

Axes: B rows, T positions, S texts of a row, D width.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, Int32, PyTree

from bert_jax.config import BertConfig
from bert_jax.labelled_rows import LabelledTexts, on_devices, unlabelled_batches
from bert_jax.labelled_texts import join_pair
from bert_jax.model import Bert
from bert_jax.tokenizer import Tokenizer
from core_jax.layers import compute_dtype, in_compute_dtype
from core_jax.sharding import batch_parts

Pooling = Literal["mean", "cls", "max"]


def encoder_params(params: PyTree, config: BertConfig) -> PyTree:
    """Those of `Bert` that an embedder reads, kernels and tables in the type of computation: no batch converts them."""
    encoder = {name: value for name, value in params.items() if name != "pooler"}
    return in_compute_dtype(encoder, compute_dtype(config))


def make_embedder(
    config: BertConfig, pooling: Pooling, *, normalize: bool
) -> Callable[[PyTree, dict[str, Any]], Float[Array, "B S D"]]:
    """Compiled (parameters of `Bert`, batch) -> the vector of every text, float32.

    Args:
      config: of the encoder.
      pooling: mean over a text's tokens, special ones included; the first token's state; or the largest of each unit.
      normalize: whether each vector is scaled to length 1.
    Source: Reimers and Gurevych 2019, section 3, https://arxiv.org/abs/1908.10084
    """
    model = Bert(config)

    @jax.jit
    def embed(params: PyTree, batch: dict[str, Any]) -> Float[Array, "B S D"]:
        inputs = (batch[name] for name in ("tokens", "segments", "types", "positions"))
        hidden: Any = model.apply({"params": params}, *inputs, method=Bert.encode)
        hidden = hidden.astype(jnp.float32)
        if pooling == "cls":
            vectors = jnp.take_along_axis(hidden, batch["cls_positions"][:, :, None], axis=1)
        else:
            texts = jnp.arange(batch["cls_positions"].shape[1], dtype=jnp.int32)[None, :, None] + 1
            own = batch["segments"][:, None] == texts
            if pooling == "mean":
                sums = jnp.einsum("bst,btd->bsd", own.astype(jnp.float32), hidden, precision="highest")
                vectors = sums / jnp.maximum(own.sum(-1, keepdims=True), 1)
            else:
                vectors = jnp.max(jnp.where(own[..., None], hidden[:, None], -jnp.inf), axis=2)
                vectors = jnp.where(own.any(-1, keepdims=True), vectors, 0.0)
        if normalize:
            vectors = vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
        return vectors

    return embed


def unlabelled_texts(tokens: Sequence[Int32[np.ndarray, " _"]], pad_id: int) -> LabelledTexts:
    """Texts as ids, special ones included, to be packed."""
    lengths, numbers = np.array([len(ids) for ids in tokens], np.int32), np.arange(len(tokens), dtype=np.int32)
    nothing = np.zeros(len(tokens), np.float32)
    return LabelledTexts("classification", tokens, lengths, numbers, [0] * len(tokens), nothing, 1, pad_id)


def embed_texts(
    embed: Callable[[PyTree, dict[str, Any]], Float[Array, "B S D"]],
    params: PyTree,
    texts: Sequence[str],
    tokenizer: Tokenizer,
    mesh: Mesh,
    *,
    batch_size: int,
    sequence_length: int,
) -> Float32[np.ndarray, "N D"]:
    """The vectors of texts, in their order.

    Args:
      embed: from `make_embedder`.
      params: of `Bert`, on the mesh.
      texts: any number; what is longer than the rows is cut off.
      tokenizer: of the model.
      mesh: where it is computed.
      batch_size: texts of a batch, on average.
      sequence_length: tokens of a text at most, special ones included.
    """
    tokens = [join_pair(tokenizer, ids, None, sequence_length)[0] for ids in tokenizer.encode(texts)]
    size = {"batch_size": batch_size, "sequence_length": sequence_length}
    batches = unlabelled_batches(unlabelled_texts(tokens, tokenizer.pad_id), **size, multiple=batch_parts(mesh))
    parts: list[tuple[np.ndarray, np.ndarray]] = []  # places and vectors
    with jax.set_mesh(mesh):
        waiting: Any = None  # the devices compute a batch while the next is made
        for batch in itertools.chain(batches, [None]):
            if waiting is not None:
                there, vectors = waiting[0] >= 0, np.asarray(waiting[1])
                parts.append((waiting[0][there], vectors[there]))
            waiting = None if batch is None else (batch["texts"], embed(params, on_devices(batch, mesh)))
    order = np.argsort(np.concatenate([places for places, _ in parts]))
    return np.concatenate([vectors for _, vectors in parts])[order]
