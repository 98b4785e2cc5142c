"""Examples for BERT's pretraining, each a pure function of (seed, epoch, index)."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from bert_jax.corpus import Corpus
from bert_jax.masking import mask_tokens
from bert_jax.sentence_pairs import DRAWS, SentencePair, chunk_documents, draw_pair, pair_lengths
from bert_jax.tokenizer import Tokenizer
from core_jax.draws import first_uniforms, generator
from core_jax.errors import UserError

SPECIAL_TOKENS = 3  # [CLS] first [SEP] second [SEP]
LENGTHS_AT_ONCE = 1 << 16  # so that what is computed for them stays in the processor's caches


class MaskedPair(NamedTuple):
    """One example as long as it is: L tokens, of which M are predicted."""

    tokens: Int32[np.ndarray, " L"]  # as the model sees them, special ones included
    types: Int32[np.ndarray, " L"]  # 1 in the second text
    mlm_positions: Int32[np.ndarray, " M"]  # ascending
    mlm_labels: Int32[np.ndarray, " M"]
    nsp_label: int


def predictions_per_row(sequence_length: int, mask_probability: float) -> int:
    """How many tokens of a row may be predicted, P."""
    return max(1, round(sequence_length * mask_probability))


class PretrainingExamples:
    """Pairs with hidden tokens from one split of a corpus; may be shared by threads and sent to other processes.

    Attributes:
      sequence_length: positions of an example, T.
      mask_probability: share of the tokens to predict.
      predictions: room for tokens to predict, P.
      pad_id: what fills an example up.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer,
        *,
        sequence_length: int,
        mask_probability: float = 0.15,
        whole_word_masking: bool = False,
        short_probability: float = 0.1,
        seed: int,
    ):
        """Finds the runs of sentences that pairs are made of.

        Args:
          corpus: one split.
          tokenizer: the one that the corpus was made with.
          sequence_length: tokens of an example, T, special ones and padding included.
          mask_probability: share of the tokens to predict.
          whole_word_masking: whether words are hidden with all of their pieces.
          short_probability: share of the pairs that are made short.
          seed: of all draws, 0 or more.
        Raises:
          UserError: too few documents, no document with two sentences, or another tokenizer's corpus.
        """
        _check_corpus(corpus, tokenizer)
        self._chunks = chunk_documents(
            corpus.sentence_lengths, corpus.document_offsets, sequence_length - SPECIAL_TOKENS
        )
        if not len(self._chunks):
            raise UserError(
                f"none of the {len(corpus)} documents has two sentences, so there are no pairs to learn from. "
                "Give text whose documents are longer; blank lines end a document"
            )
        self._corpus, self._seed, self.sequence_length = corpus, seed, sequence_length
        self.mask_probability = mask_probability
        self._short_probability = short_probability
        self._cls_id, self._sep_id, self.pad_id = tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id
        self.predictions = predictions_per_row(sequence_length, mask_probability)
        self._masking: dict[str, Any] = {
            "mask_id": tokenizer.mask_id,
            "ordinary_ids": tokenizer.ordinary_ids,
            "continues_word": tokenizer.continues_word,
            "probability": mask_probability,
            "maximum_predictions": self.predictions,
            "whole_words": whole_word_masking,
        }

    def __len__(self) -> int:
        return len(self._chunks)

    def example(self, epoch: int, index: int) -> dict[str, Any]:
        """Draws the example at a place.

        Args:
          epoch: which pass over the text; each pairs and hides anew.
          index: which run of sentences, 0 .. len - 1.
        Returns:
          tokens, segments, types: int32 [T]; segments are 1 at tokens and 0 at padding, types are 1 in the second text.
          mlm_positions, mlm_labels: int32 [P]; nsp_labels: int32 []; weights: mlm, float32 [P], is 1 where a position
          is used, and nsp, float32 [], is 1.
        """
        pair = self.pair(epoch, index)
        used = np.arange(self.predictions) < len(pair.mlm_positions)
        return {
            "tokens": _fill_up(pair.tokens, self.sequence_length, self.pad_id),
            "segments": (np.arange(self.sequence_length) < len(pair.tokens)).astype(np.int32),
            "types": _fill_up(pair.types, self.sequence_length),
            "mlm_positions": _fill_up(pair.mlm_positions, self.predictions),
            "mlm_labels": _fill_up(pair.mlm_labels, self.predictions),
            "nsp_labels": np.array(pair.nsp_label, np.int32),
            "weights": {"mlm": used.astype(np.float32), "nsp": np.array(1, np.float32)},
        }

    def pair(self, epoch: int, index: int) -> MaskedPair:
        """The example at a place as long as it is, without padding; arguments as for `example`."""
        rng = generator(self._seed, epoch, index)
        maximum, short = self.sequence_length - SPECIAL_TOKENS, self._short_probability
        return self._hide(
            draw_pair(self._corpus, self._chunks[index], rng, maximum=maximum, short_probability=short), rng
        )

    def extra_pair(self, epoch: int, number: int, maximum: int) -> MaskedPair:
        """A pair beyond the examples, from anywhere in the text, that is as near to a length as the text allows.

        Args:
          epoch: which pass over the text.
          number: which of the extra pairs, 0 or more.
          maximum: tokens, special ones included, 5 or more; fewer where the document ends before.
        """
        rng = generator(self._seed, epoch, len(self) + number)
        chunk = self._chunks[int(rng.random() * len(self))]
        return self._hide(draw_pair(self._corpus, chunk, rng, maximum=maximum - SPECIAL_TOKENS, anywhere=True), rng)

    def _hide(self, pair: SentencePair, rng: np.random.Generator) -> MaskedPair:
        """Joins two texts and hides some of their tokens."""
        middle = len(pair.first) + 2  # where the second text starts
        tokens = np.empty(middle + len(pair.second) + 1, np.int32)
        tokens[0], tokens[middle - 1], tokens[-1] = self._cls_id, self._sep_id, self._sep_id
        tokens[1 : middle - 1], tokens[middle:-1] = pair.first, pair.second
        maskable = np.ones(len(tokens), bool)
        maskable[[0, middle - 1, -1]] = False
        masked, positions, labels = mask_tokens(tokens, maskable, rng, **self._masking)
        types = (np.arange(len(tokens)) >= middle).astype(np.int32)
        return MaskedPair(masked, types, positions, labels, pair.label)

    def lengths(self, epoch: int) -> Int32[np.ndarray, " N"]:
        """The number of tokens of every example of an epoch, special ones included, without drawing the examples.

        Takes about a microsecond an example, and for a moment 8 bytes for each sentence of the text.
        """
        sentence_starts = np.zeros(len(self._corpus.sentence_lengths) + 1, np.int64)
        np.cumsum(self._corpus.sentence_lengths, out=sentence_starts[1:])
        lengths = np.empty(len(self), np.int32)
        for start in range(0, len(self), LENGTHS_AT_ONCE):
            chunks = self._chunks[start : start + LENGTHS_AT_ONCE]
            lengths[start : start + len(chunks)] = SPECIAL_TOKENS + pair_lengths(
                sentence_starts,
                self._corpus.document_offsets,
                chunks,
                first_uniforms(self._seed, epoch, np.arange(start, start + len(chunks)), DRAWS),
                maximum=self.sequence_length - SPECIAL_TOKENS,
                short_probability=self._short_probability,
            )
        return lengths


def _fill_up(values: Int32[np.ndarray, " _"], length: int, value: int = 0) -> Int32[np.ndarray, " _"]:
    filled = np.full(length, value, np.int32)
    filled[: len(values)] = values
    return filled


def _check_corpus(corpus: Corpus, tokenizer: Tokenizer) -> None:
    if tokenizer.vocab_size != corpus.summary.vocab_size:
        raise UserError(
            f"the corpus was made with a vocabulary of {corpus.summary.vocab_size} pieces, the tokenizer has "
            f"{tokenizer.vocab_size}: delete the folder of the corpus, or give the tokenizer it was made with"
        )
    if len(corpus) < 2:
        raise UserError(
            f"this split of the text has {len(corpus)} documents, but a random second sentence needs 2 at least. "
            "Give more text, separate its documents by blank lines, or change --held_out"
        )
