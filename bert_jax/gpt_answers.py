"""Prompts with the answers that a GPT is to learn: packed rows in which the tokens of the answers alone count.

Axes: N pairs, L tokens of a pair, T positions of a row.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

from bert_jax.gpt_config import AnswerSource, GptAnswers
from bert_jax.preparation import save_tokenizer
from bert_jax.tokenizer import Tokenizer
from bert_jax.tokenizer_files import load_tokenizer
from core_jax.config import require
from core_jax.distributed import first_decides
from core_jax.labelled_data import hold_out, read_records
from core_jax.packing import PackedEpochs, lay_out

POSITIONS_PER_PAIR = 4  # a row has room for one pair in so many positions
Pair = tuple[str, str]  # prompt, answer


@dataclasses.dataclass(frozen=True)
class EncodedPair:
    """A pair as tokens: the end piece, prompt, answer, the end piece."""

    ids: Int32[np.ndarray, " L"]
    prompt: int  # tokens of the prompt


class PackedAnswers:
    """Rows of whole pairs, each a pure function of (epoch, index); may be shared by threads and processes.

    Attributes:
      sequence_length: positions of a row, T.
      lengths: positions of each pair, the last token of which is only predicted.
    """

    def __init__(self, pairs: Sequence[EncodedPair], *, sequence_length: int, end_id: int, seed: int):
        """Plans the rows of the first epoch; no pair may be longer than a row."""
        self._pairs, self._end_id, self.sequence_length = pairs, end_id, sequence_length
        self.lengths = np.array([len(pair.ids) - 1 for pair in pairs], np.int32)
        most = max(sequence_length // POSITIONS_PER_PAIR, 1)
        self._epochs = PackedEpochs(self._lengths_of, capacity=sequence_length, maximum_per_row=most, seed=seed)

    def __len__(self) -> int:
        return len(self._epochs)

    def _lengths_of(self, epoch: int) -> Int32[np.ndarray, " N"]:
        del epoch
        return self.lengths

    @property
    def pairs(self) -> int:
        """How many there are."""
        return len(self._pairs)

    def example(self, epoch: int, index: int) -> dict[str, Any]:
        """The row at a place.

        Args:
          epoch: which pass over the pairs.
          index: which row, 0 .. len - 1.
        Returns:
          As of `bert_jax.packed_texts`; weights["next"] is 1 where a token of an answer, or the end of one, follows.
        """
        members = self._epochs.members(epoch, index).tolist()
        segments, positions, starts = lay_out([int(self.lengths[n]) for n in members], self.sequence_length)
        row = {name: np.full(self.sequence_length, self._end_id, np.int32) for name in ("tokens", "labels")}
        counts = np.zeros(self.sequence_length, np.float32)
        for start, number in zip(starts.tolist(), members, strict=True):
            pair, end = self._pairs[number], start + int(self.lengths[number])
            row["tokens"][start:end], row["labels"][start:end] = pair.ids[:-1], pair.ids[1:]
            counts[start + pair.prompt : end] = 1
        return row | {"segments": segments, "positions": positions, "weights": {"next": counts}}


@dataclasses.dataclass(frozen=True)
class Answers:
    """The pairs of a run, and the vocabulary that they are cut by."""

    tokenizer: Tokenizer
    train: PackedAnswers
    held_out: PackedAnswers
    left_out: int  # pairs longer than a row


def read_pairs(source: AnswerSource) -> tuple[list[Pair], list[Pair]]:
    """The pairs to train on, and those that are held out.

    Raises:
      UserError: a file or column is missing, or there is only one pair.
    """

    def read(data: str) -> list[Pair]:
        columns = source.prompt_column, source.answer_column
        records = read_records(data, columns, split=source.data_split, data_dir=source.data_dir or None)
        return [(str(record[columns[0]]), str(record[columns[1]])) for record in records]

    train = read(source.data)
    if source.validation_data:
        return train, read(source.validation_data)
    return hold_out(source.data, train, source.held_out)


def encode_pairs(pairs: Sequence[Pair], source: AnswerSource, tokenizer: Tokenizer) -> list[EncodedPair]:
    """The pairs that a row has room for, as tokens."""
    prompts = tokenizer.encode([source.framed(prompt) for prompt, _ in pairs])
    answers, end = tokenizer.encode([answer for _, answer in pairs]), tokenizer.end_id
    encoded = [
        EncodedPair(np.array([end, *prompt, *answer, end], np.int32), len(prompt))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return [pair for pair in encoded if len(pair.ids) - 1 <= source.sequence_length]


def open_answers(config: GptAnswers, workdir: str) -> Answers:
    """The pairs of a run; its vocabulary, that of --init, is kept in the work folder.

    Raises:
      UserError: pairs or vocabulary cannot be read, or all pairs are too long.
    """
    folder = os.path.join(workdir, "tokenizer")

    def keep_vocabulary() -> None:
        if not os.path.isdir(folder):
            save_tokenizer(given_vocabulary(config.init), folder)

    first_decides(keep_vocabulary)
    tokenizer, source, left_out = load_tokenizer(folder), config.text, 0
    rows = []
    for name, pairs in zip(("data", "validation_data"), read_pairs(source), strict=True):
        encoded = encode_pairs(pairs, source, tokenizer)
        longest = f"--sequence_length={source.sequence_length}"
        require(bool(encoded), f"--{name}: all {len(pairs)} pairs are longer than {longest} tokens; give a larger one")
        sizes = {"sequence_length": source.sequence_length, "end_id": tokenizer.end_id}
        rows.append(PackedAnswers(encoded, **sizes, seed=config.training.seed))
        left_out += len(pairs) - len(encoded)
    train, held_out = rows
    return Answers(tokenizer, train, held_out, left_out)


def given_vocabulary(init: str) -> Tokenizer:
    """That of what --init names."""
    return load_tokenizer(init.removeprefix("hf:") if init.startswith("hf:") else os.path.join(init, "tokenizer"))
