"""Examples for BERT's pretraining, each a pure function of (seed, epoch, index)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.corpus import Corpus
from bert_jax.masking import mask_tokens
from bert_jax.sentence_pairs import chunk_documents, draw_pair
from bert_jax.tokenizer import Tokenizer
from core_jax.errors import UserError

SPECIAL_TOKENS = 3  # [CLS] first [SEP] second [SEP]


def predictions_per_row(sequence_length: int, mask_probability: float) -> int:
    """How many tokens of a row may be predicted, P."""
    return max(1, round(sequence_length * mask_probability))


def batch_shapes(rows: int, sequence_length: int, mask_probability: float) -> dict[str, Any]:
    """Shapes and dtypes of a batch of `PretrainingExamples`, before there is any text."""
    predictions = predictions_per_row(sequence_length, mask_probability)
    positions, predicted = (jax.ShapeDtypeStruct((rows, n), jnp.int32) for n in (sequence_length, predictions))
    return {
        **dict.fromkeys(("tokens", "segments", "types"), positions),
        **dict.fromkeys(("mlm_positions", "mlm_labels"), predicted),
        "nsp_labels": jax.ShapeDtypeStruct((rows,), jnp.int32),
        "weights": {
            "mlm": jax.ShapeDtypeStruct((rows, predictions), jnp.float32),
            "nsp": jax.ShapeDtypeStruct((rows,), jnp.float32),
        },
    }


class PretrainingExamples:
    """Pairs with hidden tokens from one split of a corpus; may be shared by threads and sent to other processes."""

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
        self._corpus, self._length, self._seed = corpus, sequence_length, seed
        self._short_probability = short_probability
        self._cls_id, self._sep_id, self._pad_id = tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id
        self._predictions = predictions_per_row(sequence_length, mask_probability)
        self._masking: dict[str, Any] = {
            "mask_id": tokenizer.mask_id,
            "ordinary_ids": tokenizer.ordinary_ids,
            "continues_word": tokenizer.continues_word,
            "probability": mask_probability,
            "maximum_predictions": self._predictions,
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
        counter = np.array([0, 0, index, epoch], np.uint64)  # the generator itself counts in the first word
        rng = np.random.Generator(np.random.Philox(key=np.array([self._seed, 0], np.uint64), counter=counter))
        pair = draw_pair(
            self._corpus,
            self._chunks[index],
            rng,
            maximum=self._length - SPECIAL_TOKENS,
            short_probability=self._short_probability,
        )
        middle = len(pair.first) + 2  # where the second text starts
        end = middle + len(pair.second) + 1
        tokens = np.full(self._length, self._pad_id, np.int32)
        segments, types = np.zeros(self._length, np.int32), np.zeros(self._length, np.int32)
        tokens[0], tokens[middle - 1], tokens[end - 1] = self._cls_id, self._sep_id, self._sep_id
        tokens[1 : middle - 1], tokens[middle : end - 1] = pair.first, pair.second
        segments[:end], types[middle:end] = 1, 1
        maskable = segments == 1
        maskable[[0, middle - 1, end - 1]] = False
        masked, positions, labels = mask_tokens(tokens, maskable, rng, **self._masking)
        used = len(positions)
        mlm_positions, mlm_labels = np.zeros(self._predictions, np.int32), np.zeros(self._predictions, np.int32)
        mlm_weights = np.zeros(self._predictions, np.float32)
        mlm_positions[:used], mlm_labels[:used], mlm_weights[:used] = positions, labels, 1
        return {
            "tokens": masked,
            "segments": segments,
            "types": types,
            "mlm_positions": mlm_positions,
            "mlm_labels": mlm_labels,
            "nsp_labels": np.array(pair.label, np.int32),
            "weights": {"mlm": mlm_weights, "nsp": np.array(1, np.float32)},
        }


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
