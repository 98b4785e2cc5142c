"""GPT-2, exactly as Radford et al. 2019 (https://openai.com/index/better-language-models), from the blocks of core_jax.

Decoding is two functions of the parameters: `prefill` reads prompts, `decode_step` one token more of each row; a cache
goes in and comes out, and one compiled step serves every length.

Axes: B batch, T positions, S places of a cache (its capacity), D width, V vocabulary.
"""

from typing import Any, Protocol, overload, runtime_checkable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from bert_jax.gpt_config import GptConfig
from core_jax.config import require
from core_jax.embeddings import TokenEmbeddings
from core_jax.heads import gather_positions
from core_jax.key_value_cache import KeyValueCache, empty_cache, extend_cache
from core_jax.layers import compute_dtype
from core_jax.multihead_attention import Others
from core_jax.transformer import Stack

Tokens = Int[Array, "B T"]


class Gpt(nn.Module):
    """Embeddings, decoder, and the product with every token's embedding."""

    config: GptConfig

    def setup(self):
        """Makes the parts."""
        config = self.config
        self.embeddings = TokenEmbeddings(config, config.vocab_size, config.maximum_positions)
        self.decoder = Stack(config)

    def __call__(
        self,
        tokens: Tokens,
        segments: Tokens | None = None,
        positions: Tokens | None = None,
        *,
        train: bool = False,
        others: Others | None = None,
    ) -> Float[Array, "B T V"]:
        """The logits of what follows each token.

        Args:
          tokens: ids of pieces.
          segments: tokens see those before them with the same number; padding, which may stand on either side, has 0.
            By default a row is one text.
          positions: places in the position table; by default a row's tokens count 0, 1, ... without its padding.
          train: whether dropout is on (it needs the "dropout" randomness).
          others: what the tokens look at besides each other, as in the decoder of an encoder-decoder.
        """
        return self.decode(self.read(tokens, segments, positions, train=train, others=others))

    @overload
    def read(
        self,
        tokens: Tokens,
        segments: Tokens | None = None,
        positions: Tokens | None = None,
        *,
        train: bool = False,
        cache: None = None,
        others: Others | None = None,
    ) -> Float[Array, "B T D"]: ...

    @overload
    def read(
        self,
        tokens: Tokens,
        segments: Tokens | None = None,
        positions: Tokens | None = None,
        *,
        train: bool = False,
        cache: KeyValueCache,
        others: Others | None = None,
    ) -> tuple[Float[Array, "B T D"], KeyValueCache]: ...

    def read(
        self,
        tokens: Tokens,
        segments: Tokens | None = None,
        positions: Tokens | None = None,
        *,
        train: bool = False,
        cache: KeyValueCache | None = None,
        others: Others | None = None,
    ) -> Float[Array, "B T D"] | tuple[Float[Array, "B T D"], KeyValueCache]:
        """The hidden states of the last layer.

        Args:
          tokens, segments, positions, train: as above; with a cache, of new tokens alone.
          cache: of the tokens before, which count in the positions of the new ones.
          others: what the tokens look at besides each other; a cache keeps them for the tokens to come.
        Returns:
          Hidden states; with a cache also the cache with the new tokens in it.
        """
        if positions is None:
            positions = counted_positions(tokens, segments, cache)
        hidden = self.embeddings(tokens, positions, train=train)
        return self.decoder(hidden, segments, train=train, cache=cache, others=others)

    def decode(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """The product with every token's embedding."""
        return self.embeddings.token.attend(hidden)


def counted_positions(tokens: Tokens, segments: Tokens | None, cache: KeyValueCache | None) -> Tokens:
    """0, 1, ... at the tokens of each row without its padding, or on from those in the cache."""
    real = jnp.ones_like(tokens) if segments is None else (segments > 0).astype(tokens.dtype)
    before = 0 if cache is None else jnp.sum(cache.segments > 0, axis=1, keepdims=True, dtype=tokens.dtype)
    return jnp.maximum(jnp.cumsum(real, axis=1) - 1 + before, 0)


@runtime_checkable
class Reader(Protocol):
    """What prefill and decode_step ask of a model: a Gpt, or another whose methods are called and do the same."""

    config: Any

    def read(self, *args: Any, **kwargs: Any) -> Any:
        """As `Gpt.read`."""

    def decode(self, hidden: Any) -> Any:
        """As `Gpt.decode`."""


def prefill(
    model: Reader,
    params: PyTree,
    tokens: Int[Array, "B T"],
    valid: Bool[Array, "B T"],
    capacity: int,
    others: Others | None = None,
) -> tuple[Float[Array, "B V"], KeyValueCache]:
    """Reads prompts.

    Args:
      model: whose parameters they are.
      params: of the model.
      tokens: one prompt a row, padded on either side with anything.
      valid: which of them are real; at least one in each row.
      capacity: S, the places of the cache: those of the prompts and one for each token to come.
      others: what the tokens look at besides each other, those to come as well; its real ones are of segment 1.
    Returns:
      The logits, in float32, of what follows each row's last real token, and the cache of the prompts.
    Raises:
      UserError: the prompts do not fit into the capacity, or that is more than the model has positions.
    """
    config, (rows, length) = model.config, tokens.shape
    require(
        length <= capacity <= config.maximum_positions,
        f"{length} tokens of prompts and {capacity - length} to come are {capacity} places: expected at least one of "
        f"the latter, and at most the {config.maximum_positions} positions of the model in all; shorten either",
    )
    cache = empty_cache(config, rows, length, compute_dtype(config))
    hidden, cache = _apply(model, params, tokens, valid.astype(jnp.int32), cache=cache, others=others, method="read")
    last = length - 1 - jnp.argmax(valid[:, ::-1], axis=1, keepdims=True)
    logits = _apply(model, params, gather_positions(hidden, last)[:, 0], method="decode")
    return logits.astype(jnp.float32), extend_cache(cache, capacity)


def decode_step(
    model: Reader, params: PyTree, tokens: Int[Array, " B"], cache: KeyValueCache
) -> tuple[Float[Array, "B V"], KeyValueCache]:
    """Reads one token more of each row.

    Args:
      model: whose parameters they are.
      params: of the model.
      tokens: the next of each row.
      cache: of the tokens before, with a free place; `jax.jit` may be given it to write into (`donate_argnames`).
    Returns:
      The logits, in float32, of what follows, and the cache with the token in it.
    """
    hidden, cache = _apply(model, params, tokens[:, None], cache=cache, method="read")
    return _apply(model, params, hidden[:, 0], method="decode").astype(jnp.float32), cache


def _apply(model: Any, params: PyTree, *arguments: Any, **options: Any) -> Any:
    return model.apply({"params": params}, *arguments, **options)
