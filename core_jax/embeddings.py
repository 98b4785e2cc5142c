"""What turns inputs into hidden states.

Axes: B batch, T positions, D width.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from core_jax.config import TransformerConfig
from core_jax.dropout import drop_units
from core_jax.matmul import matmul
from core_jax.sharding import BATCH_AXES, constrain
from core_jax.transformer import compute_dtype, initializer, layer_norm


class Embedding(nn.Module):
    """A table of vectors, to look up or to multiply with."""

    config: TransformerConfig
    rows: int
    row_axis: str | None = None  # mesh axis that the rows are spread over

    def setup(self):
        """Makes the table."""
        self.embedding = self.param("embedding", initializer(self.config), (self.rows, self.config.width))

    def table(self) -> Float[Array, "rows D"]:
        """The table in the type of computation, its width gathered from the fsdp axis."""
        return constrain(self.embedding.astype(compute_dtype(self.config)), self.row_axis, None)

    def __call__(self, ids: Int[Array, "*B T"]) -> Float[Array, "*B T D"]:
        """The vectors of the given rows."""
        return jnp.take(self.table(), ids, axis=0)

    def attend(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B rows"]:
        """The product of hidden states with every row."""
        return matmul(hidden, self.table(), transposed=True)


class TextEmbeddings(nn.Module):
    """The sum of token, position and type embeddings, then LayerNorm and dropout.

    Source: Devlin et al. 2018, figure 2, https://arxiv.org/abs/1810.04805
    """

    config: TransformerConfig
    vocab_size: int
    maximum_positions: int
    type_vocab_size: int

    def setup(self):
        """Makes the three tables."""
        self.token = Embedding(self.config, self.vocab_size, row_axis="tensor")
        self.position = Embedding(self.config, self.maximum_positions)
        self.type = Embedding(self.config, self.type_vocab_size)
        self.norm = layer_norm(self.config, "norm")

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        types: Int[Array, "B T"],
        positions: Int[Array, "B T"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        """Embeds; without `positions` the tokens stand at 0, 1, ..., T - 1."""
        if positions is None:
            positions = jnp.arange(tokens.shape[1], dtype=tokens.dtype)[None]
        summed = self.token(tokens) + self.position(positions) + self.type(types)
        hidden = self.norm(summed)
        if train and self.config.dropout:
            hidden = drop_units(hidden, self.make_rng("dropout"), self.config.dropout)
        return constrain(hidden, BATCH_AXES, None, None)
