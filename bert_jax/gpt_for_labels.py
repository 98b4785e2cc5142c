"""GPT with the head of a labelled task; it takes what `bert_jax.model.BertForLabels` takes, and gives the same.

Axes: B batch, T positions, S texts of packed rows, D width, C outputs.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bert_jax.gpt import Gpt, Tokens
from bert_jax.gpt_config import GptConfig
from bert_jax.model import Head
from core_jax.dropout import drop_units
from core_jax.heads import Classifier, gather_positions, segment_members

READ = ("classification", "regression", "choice")  # heads of a whole text


class GptForLabels(nn.Module):
    """GPT, dropout and one linear layer on the last token of a text, the only one that has seen all of it.

    Source: Radford et al. 2018, section 3.3, https://openai.com/index/language-unsupervised
    """

    config: GptConfig
    head: Head
    classes: int  # outputs of the linear layer: 1 for a number or a choice

    def setup(self):
        """Makes the parts."""
        self.gpt = Gpt(self.config)
        self.classifier = Classifier(self.config, self.classes)

    def __call__(
        self,
        tokens: Tokens,
        segments: Tokens,
        types: Tokens,
        positions: Tokens | None = None,
        cls_positions: Int[Array, "B S"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "B *S C"]:
        """Logits of every text, [B, C] or, packed, [B, S, C].

        Args:
          tokens: ids of pieces.
          segments: 1, 2, ... in the texts of a row, in that order; padding has 0.
          types: of no use here.
          positions: places in the position table; by default a row's tokens count 0, 1, ...
          cls_positions: where the texts of packed rows start; by default a row is one text, from its first token.
          train: whether dropout is on.
        """
        del types
        starts = jnp.zeros((len(tokens), 1), jnp.int32) if cls_positions is None else cls_positions
        lengths = jnp.sum(segment_members(segments, starts.shape[1]), axis=2, dtype=jnp.int32)
        last = jnp.maximum(starts + lengths - 1, 0)
        features = gather_positions(self.gpt.read(tokens, segments, positions, train=train), last)
        if train and self.config.dropout:
            features = drop_units(features, self.make_rng("dropout"), self.config.dropout)
        logits = self.classifier(features)
        return logits[:, 0] if cls_positions is None else logits
