"""BERT, exactly as Devlin et al. 2018 (https://arxiv.org/abs/1810.04805), from the blocks of core_jax.

Axes: B batch, T positions, P predicted positions, S pairs of a packed row, D width, V vocabulary.
"""

from typing import Literal

import flax.linen as nn
from jaxtyping import Array, Float, Int

from bert_jax.config import BertConfig
from core_jax.dropout import drop_units
from core_jax.embeddings import TextEmbeddings
from core_jax.heads import Classifier, Pooler, TokenPredictionHead, gather_positions
from core_jax.transformer import Stack

Tokens = Int[Array, "B T"]
# What is labelled: a text or pair (by a class or a number), each of its tokens, a span of it, or one of several texts.
Head = Literal["classification", "regression", "token", "span", "choice"]
TOKEN_HEADS = ("token", "span")  # which read every token, and no pooled state


class Bert(nn.Module):
    """Embeddings, encoder and pooler."""

    config: BertConfig

    def setup(self):
        """Makes the parts."""
        config = self.config
        self.embeddings = TextEmbeddings(config, config.vocab_size, config.maximum_positions, config.type_vocab_size)
        self.encoder = Stack(config)
        self.pooler = Pooler(config)

    def __call__(
        self,
        tokens: Tokens,
        segments: Tokens,
        types: Tokens,
        positions: Tokens | None = None,
        cls_positions: Int[Array, "B S"] | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B *S D"]]:
        """Reads sequences.

        Args:
          tokens: ids of pieces.
          segments: tokens attend to those with the same number; padding has 0.
          types: 0 in the first sentence of a pair, 1 in the second.
          positions: places in the position table; by default 0, 1, ..., T - 1.
          cls_positions: where the examples of packed rows start; by default a row is one example.
          train: whether dropout is on (it needs the "dropout" randomness).
        Returns:
          The hidden states of the last layer, and the pooled state of the first position: [B, D], or, with
          `cls_positions`, of each of those: [B, S, D].
        """
        hidden = self.encode(tokens, segments, types, positions, train=train)
        return hidden, self.pooler(hidden, cls_positions)

    def encode(
        self, tokens: Tokens, segments: Tokens, types: Tokens, positions: Tokens | None = None, *, train: bool = False
    ) -> Float[Array, "B T D"]:
        """The hidden states of the last layer alone; arguments as above."""
        hidden = self.embeddings(tokens, types, positions, train=train)
        return self.encoder(hidden, segments, train=train)

    def decode(self, hidden: Float[Array, "B P D"]) -> Float[Array, "B P V"]:
        """The product with every token's embedding."""
        return self.embeddings.token.attend(hidden)


class BertForPretraining(nn.Module):
    """BERT with the heads of masked language modelling and next sentence prediction."""

    config: BertConfig

    def setup(self):
        """Makes the parts."""
        self.bert = Bert(self.config)
        self.token_prediction = TokenPredictionHead(self.config, self.config.vocab_size)
        self.next_sentence_classifier = Classifier(self.config, 2)

    def __call__(
        self,
        tokens: Tokens,
        segments: Tokens,
        types: Tokens,
        mlm_positions: Int[Array, "B P"],
        positions: Tokens | None = None,
        cls_positions: Int[Array, "B S"] | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "B P V"], Float[Array, "B *S 2"]]:
        """Logits of the pieces at `mlm_positions` (nowhere else are they computed), and of next (0) or random (1).

        Args:
          tokens, segments, types, positions, cls_positions, train: as for `Bert`.
          mlm_positions: positions to predict.
        """
        hidden, pooled = self.bert(tokens, segments, types, positions, cls_positions, train=train)
        mlm_logits = self.token_prediction(gather_positions(hidden, mlm_positions), self.bert.decode)
        return mlm_logits, self.next_sentence_classifier(pooled)


class BertForLabels(nn.Module):
    """BERT with the head of a labelled task: dropout and one linear layer (of a span, the linear layer alone).

    Source: Devlin et al. 2018, section 4 and figure 4; multiple choice as in section 4.4 (SWAG).
    """

    config: BertConfig
    head: Head
    classes: int  # outputs of the linear layer: 2 for a span (first and last token), 1 for a number or a choice

    def setup(self):
        """Makes the parts."""
        self.bert = Bert(self.config)
        # As `transformers` draws it; that of the original BERT is cut off and thus narrower: at low learning rates
        # the first epochs bring less.
        init = nn.initializers.normal(self.config.initializer_range)
        if self.head == "span":
            self.span_classifier = Classifier(self.config, self.classes, init)
        else:
            self.classifier = Classifier(self.config, self.classes, init)

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
        """Logits: of every token, [B, T, C], for `TOKEN_HEADS`; else of every text, [B, C] or, packed, [B, S, C].

        Args:
          tokens, segments, types, positions, cls_positions, train: as for `Bert`.
        """
        inputs = (tokens, segments, types, positions)
        if self.head in TOKEN_HEADS:
            features = self.bert.encode(*inputs, train=train)
        else:
            _, features = self.bert(*inputs, cls_positions, train=train)
        if self.head == "span":
            return self.span_classifier(features)
        if train and self.config.dropout:
            features = drop_units(features, self.make_rng("dropout"), self.config.dropout)
        return self.classifier(features)
