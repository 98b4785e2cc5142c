"""An encoder and a decoder that looks at what it has read, whatever both are.

Axes: B batch, T tokens, V vocabulary.
"""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float, Int

from core_jax.multihead_attention import Others


class EncoderDecoder(nn.Module):
    """Joins two models; its parameters are those of each, by the names `encoder` and `decoder`."""

    encoder: nn.Module  # (inputs, train=) -> hidden states
    decoder: nn.Module  # (tokens, segments, positions, train=, others=) -> logits

    def __call__(
        self,
        inputs: Any,
        tokens: Int[Array, "B T"],
        segments: Int[Array, "B T"] | None = None,
        positions: Int[Array, "B T"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "B T V"]:
        """The logits of what follows each token.

        Args:
          inputs: of the encoder.
          tokens, segments, positions: of the decoder.
          train: whether dropout is on.
        """
        encode: Any = self.encoder
        decode: Any = self.decoder
        return decode(tokens, segments, positions, train=train, others=Others(encode(inputs, train=train)))
