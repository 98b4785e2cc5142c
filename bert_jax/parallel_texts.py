"""Sentence pairs as batches of few shapes: those of similar lengths together, in an order that (seed, step) decides.

Axes: N pairs, B rows, L places.
"""

import dataclasses
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree
from sklearn.feature_extraction.text import TfidfVectorizer

from bert_jax.prepared_text import is_foreign
from bert_jax.sentencepiece_tokenizer import SentencePiece
from bert_jax.t5_vocabulary import T5Vocabulary
from bert_jax.tokenizer import Tokenizer
from bert_jax.tokenizer_files import load_tokenizer
from bert_jax.tokenizer_training import COVERAGE, train_sentencepiece, train_t5_vocabulary
from bert_jax.translation_config import PairsConfig, TranslationConfig
from bert_jax.translator import bucket_length
from core_jax.config import require
from core_jax.labelled_data import check_records, read_records
from core_jax.sharding import global_batch, local_rows

T5 = "sentencepiece-t5"
TRAINED = {"sentencepiece": "unigram", "sentencepiece-bpe": "bpe", T5: "unigram"}
MOST_CHARACTERS = 4  # every so-many-th piece of a vocabulary may be a single character
TEXT_ROWS = 256  # sources that are compared with all of training at once


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Sentences and what they mean, as text."""

    sources: list[str]
    targets: list[str]

    def __len__(self) -> int:
        return len(self.sources)

    def first(self, count: int) -> "Pairs":
        """The first so many; 0: all."""
        return self if not count else Pairs(self.sources[:count], self.targets[:count])


@dataclasses.dataclass(frozen=True)
class EncodedPairs:
    """The same as tokens, each with the one that ends it."""

    sources: list[list[int]]
    targets: list[list[int]]
    cut: int  # pairs that were longer than the longest: left out of training, else cut


def check_pairs(config: PairsConfig) -> None:
    """Raises for what is wrong with --data, --tokenizer and the columns, before anything is read whole.

    Raises:
      UserError: with what to type instead.
    """
    require(bool(config.data), "--data=: expected sentence pairs, such as jsonl:pairs.jsonl or tfds:NAME")
    require(
        config.source_column != config.target_column,
        f"--source_column and --target_column are both {config.source_column!r}; expected one of each language",
    )
    for data, split in _places(config).values():
        check_records(data, (config.source_column, config.target_column), split=split, data_dir=config.data_dir or None)
    require(
        not is_foreign(config.tokenizer),
        f"--tokenizer={config.tokenizer}: expected {', '.join(TRAINED)}, or the path of a SentencePiece *.model, or of "
        "a folder with that of a T5",
    )


def read_pairs(config: PairsConfig, seed: int) -> dict[str, Pairs]:
    """The pairs to train on, to validate on, and to test on where there are any.

    Args:
      config: says where they are.
      seed: of which of them are held out, where no others are given.
    Raises:
      UserError: they cannot be read, or none is left to train on.
    """
    sets = {name: _read(config, *place) for name, place in _places(config).items()}
    if "validation" not in sets:
        pairs, held = sets["train"], max(1, round(config.held_out * len(sets["train"])))
        require(len(pairs) > held, f"--data={config.data} holds {len(pairs)} pairs; {held} is held out: give more")
        order = np.random.default_rng(seed).permutation(len(pairs)).tolist()
        parts = {"train": sorted(order[held:]), "validation": sorted(order[:held])}
        sets |= {
            name: Pairs([pairs.sources[i] for i in rows], [pairs.targets[i] for i in rows])
            for name, rows in parts.items()
        }
    return sets


def _places(config) -> dict[str, tuple[str, str]]:
    places = {"train": (config.data, config.data_split)}
    if config.validation_data or config.data.startswith("tfds:"):
        places["validation"] = (config.validation_data or config.data, config.validation_split)
    if config.test_data:
        places["test"] = (config.test_data, config.test_split)
    return places


def _read(config, data, split):
    columns = (config.source_column, config.target_column)
    records = read_records(data, columns, split=split, data_dir=config.data_dir or None)
    wrong = next((n for n, r in enumerate(records) if not all(isinstance(r[name], str) for name in columns)), None)
    require(wrong is None, f"example {wrong} of {data}: {' and '.join(columns)} are not both text")
    sides = ([" ".join(record[name].split()) for record in records] for name in columns)
    kept = [pair for pair in zip(*sides, strict=True) if all(pair)]
    require(bool(kept), f"{data} holds no pair of sentences that are both more than spaces")
    return Pairs(*map(list, zip(*kept, strict=True)))


def vocabulary(config: PairsConfig, model: TranslationConfig, pairs: Pairs) -> Tokenizer:
    """The vocabulary of both languages: the one that is given, or a new one of the pairs."""
    if config.tokenizer not in TRAINED:
        found = load_tokenizer(config.tokenizer)
        needed = f"--tokenizer={config.tokenizer} is no SentencePiece, which writes text as it was; expected a *.model"
        require(isinstance(found, SentencePiece | T5Vocabulary), needed)
        return found
    kind: Any = TRAINED[config.tokenizer]
    texts = [*pairs.sources, *pairs.targets]
    # An unknown character is lost, and written as unknown, unless there are too many to have a piece each.
    characters = len(set(itertools.chain.from_iterable(texts)))
    coverage = 1.0 if characters <= model.vocab_size // MOST_CHARACTERS else COVERAGE
    if config.tokenizer == T5:
        return train_t5_vocabulary(texts, model.vocab_size, coverage=coverage)
    return train_sentencepiece(texts, model.vocab_size, kind, coverage=coverage)


def with_vocabulary(model: TranslationConfig, tokenizer: Tokenizer) -> TranslationConfig:
    """A model for the pieces of a vocabulary."""
    return dataclasses.replace(
        model,
        vocab_size=tokenizer.vocab_size,
        pad_id=tokenizer.pad_id,
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
    )


def encode_sources(texts: Sequence[str], tokenizer: Tokenizer, longest: int, *, starts: bool) -> list[list[int]]:
    """Tokens of each text, cut, with the one that ends it and, if asked to, the one that starts texts."""
    before = [tokenizer.start_id] * starts
    return [[*before, *tokens[: longest - 1 - starts], tokenizer.end_id] for tokens in tokenizer.encode(texts)]


def encode_pairs(
    pairs: Pairs, tokenizer: Tokenizer, longest: int, *, leave_out: bool, starts: bool = False
) -> EncodedPairs:
    """Pairs as tokens.

    Args:
      pairs: as text.
      tokenizer: of both languages.
      longest: tokens of a sentence at most, those at its ends included.
      leave_out: whether pairs with a longer sentence are left out, instead of cut.
      starts: whether sources begin with the piece that starts texts.
    """
    sources = encode_sources(pairs.sources, tokenizer, sys.maxsize, starts=starts)
    targets = encode_sources(pairs.targets, tokenizer.targets, sys.maxsize, starts=False)
    fits = [max(map(len, pair)) <= longest for pair in zip(sources, targets, strict=True)]
    kept = [index for index, fit in enumerate(fits) if fit or not leave_out]
    ours, theirs = ([_cut(side[index], longest) for index in kept] for side in (sources, targets))
    return EncodedPairs(ours, theirs, fits.count(False))


def _cut(tokens, longest):
    """With its last token all the same: that ends it."""
    return tokens if len(tokens) <= longest else [*tokens[: longest - 1], tokens[-1]]


class BucketedBatches:
    """Batches of pairs of similar lengths; every epoch has each pair once, in an order of its own."""

    def __init__(self, pairs: EncodedPairs, config: TranslationConfig, longest: int, batch_size: int, seed: int):
        """Sorts pairs into buckets.

        Args:
          pairs: as tokens.
          config: of the model, for its special pieces.
          longest: places of a row at most.
          batch_size: pairs a batch; the last of a bucket is filled up with rows that count nothing.
          seed: of the order.
        """
        self._pairs, self._config, self._batch_size, self._seed = pairs, config, batch_size, seed
        self._buckets: dict[int, list[int]] = {}
        for index, (source, target) in enumerate(zip(pairs.sources, pairs.targets, strict=True)):
            self._buckets.setdefault(bucket_length(max(len(source), len(target)), longest), []).append(index)
        self.epoch_steps = sum(math.ceil(len(rows) / batch_size) for rows in self._buckets.values())

    def plan(self, epoch: int | None) -> list[tuple[int, list[int]]]:
        """Places of a row and pairs of each batch of an epoch; None: in the order of their lengths."""
        random = None if epoch is None else np.random.default_rng((self._seed, epoch))
        batches = []
        for length, rows in sorted(self._buckets.items()):
            order = rows if random is None else random.permutation(rows).tolist()
            batches += [
                (length, order[start : start + self._batch_size]) for start in range(0, len(order), self._batch_size)
            ]
        return batches if random is None else [batches[index] for index in random.permutation(len(batches))]

    def training(self, mesh: Mesh, first_step: int, last_step: int) -> Iterator[PyTree]:
        """The batches of steps first_step .. last_step - 1, on a mesh."""
        epoch, plan = -1, []
        for step in range(first_step, last_step):
            if step // self.epoch_steps != epoch:
                epoch = step // self.epoch_steps
                plan = self.plan(epoch)
            yield self._batch(mesh, *plan[step % self.epoch_steps])

    def evaluation(self, mesh: Mesh) -> Iterator[PyTree]:
        """Every pair once, on a mesh."""
        return (self._batch(mesh, *batch) for batch in self.plan(None))

    def _batch(self, mesh, length, indices):
        mine = local_rows(mesh, self._batch_size).tolist()
        names = ("sources", "source_segments", "tokens", "segments", "labels")
        batch = {name: np.zeros((len(mine), length), np.int32) for name in names}
        for name in ("sources", "tokens", "labels"):
            batch[name][:] = self._config.pad_id
        for row, place in enumerate(mine):
            if place >= len(indices):
                batch["source_segments"][row, 0] = batch["segments"][row, 0] = 1  # or it would look at nothing
                continue
            source, target = self._pairs.sources[indices[place]], self._pairs.targets[indices[place]]
            batch["sources"][row, : len(source)], batch["source_segments"][row, : len(source)] = source, 1
            batch["tokens"][row, : len(target)] = [self._config.start_id, *target[:-1]]
            batch["labels"][row, : len(target)], batch["segments"][row, : len(target)] = target, 1
        counts = np.array([[place < len(indices)] for place in mine], np.float32)
        return global_batch(batch | {"weights": {"next": batch["segments"] * counts}}, mesh)


def nearest_targets(train: Pairs, sources: Sequence[str]) -> list[str]:
    """What a memory of the training pairs would say: the target of the source that shares most words, by TF-IDF."""
    words = TfidfVectorizer(lowercase=True, token_pattern=r"\w+|[^\w\s]")
    known = words.fit_transform(train.sources)
    asked = words.transform(sources)
    best = []
    for start in range(0, len(sources), TEXT_ROWS):
        likeness = asked[start : start + TEXT_ROWS] @ known.T
        best += np.asarray(likeness.argmax(axis=1)).reshape(-1).tolist()
    return [train.targets[index] for index in best]
