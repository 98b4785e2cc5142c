"""Records of a labelled task -> token ids with labels, for every kind of head.

A record is a dict of columns. Its texts are cut to the rows' length; of tagged words and of contexts with an answer
nothing is cut off: they go on in further texts.
"""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from bert_jax.label_values import (
    Record,
    answer_characters,
    answers_in,
    classes_in,
    label_name,
    number_in,
    place_of,
    text_in,
    with_values,
    words_in,
)
from bert_jax.labelled_rows import IGNORED, LabelledTexts
from bert_jax.model import Head
from bert_jax.tokenizer import Tokenizer
from core_jax.config import require

LONGEST_QUESTION = 64  # tokens; Devlin et al. 2018, run_squad.py
NO_LABEL = "no label"
NUMBER = re.compile(r"-?\d{1,18}")


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which columns of a record hold what."""

    text: str = "text"  # of a token task the list of words, of a span task the context, of a choice what is continued
    second: str = ""  # second sentence of a pair; of a span task the question
    label: str = "label"  # class, number, list of tags, answers, or place of the right choice
    choices: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Window:
    """The part of a context that one text of a span task holds."""

    start: int  # place of the first context token in the text
    places: Sequence[tuple[int, int]]  # of each context token in the context, in characters


@dataclasses.dataclass(frozen=True)
class LabelledExamples:
    """The examples of a task, ready to be packed."""

    records: Sequence[Record]
    texts: LabelledTexts
    cut: int  # examples of which the end was cut off
    words: Sequence[Int32[np.ndarray, " _"]] = ()  # of each text of a token task, the place of each word's first token
    windows: Sequence[Window] = ()  # of each text of a span task


def class_names(records: Sequence[Record], head: Head, column: str) -> list[str]:
    """The labels that occur, in order: numbers by their size, words by the alphabet.

    Args:
      records: with labels.
      head: of classes of texts or of words.
      column: of the labels.
    Raises:
      UserError: a label is empty, or those of words are no list or text.
    """
    of_words = head == "token"
    labels = {
        name for number, record in enumerate(records) for name in classes_in(record, number, column, of_words=of_words)
    }
    numbers = all(NUMBER.fullmatch(label) for label in labels)
    return sorted(labels, key=lambda label: (int(label), label)) if numbers else sorted(labels)


def encode_examples(
    records: Sequence[Record],
    tokenizer: Tokenizer,
    *,
    head: Head,
    columns: Columns,
    classes: Sequence[str],
    sequence_length: int,
    stride: int = 128,
    labelled: bool = True,
) -> LabelledExamples:
    """Cuts the texts of records into pieces and reads their labels.

    Args:
      records: one for each example.
      tokenizer: of the model.
      head: what is labelled.
      columns: where it stands.
      classes: names of the labels, in the order of the model's outputs.
      sequence_length: tokens of a text at most.
      stride: tokens between the beginnings of two windows of one context.
      labelled: whether the records have labels.
    Raises:
      UserError: a text is none, a label none of the classes or no number, or an answer is not in its context.
    """
    if head == "token":
        return _encode_words(records, tokenizer, columns, classes, sequence_length, labelled)
    if head == "span":
        return _encode_contexts(records, tokenizer, columns, sequence_length, stride, labelled)
    return _encode_texts(records, tokenizer, head, columns, classes, sequence_length, labelled)


def _encode_texts(records, tokenizer, head, columns, classes, sequence_length, labelled):
    """Of classification, regression and choices."""
    seconds = columns.choices if head == "choice" else (columns.second,) if columns.second else ()
    size = len(columns.choices) if head == "choice" else 1
    firsts = tokenizer.encode(_texts_in(records, columns.text))
    others = [tokenizer.encode(_texts_in(records, name)) for name in seconds]
    tokens, lengths, cut = [], [], 0
    for number, first in enumerate(firsts):
        for other in [second[number] for second in others] or [None]:
            ids, length, was_cut = join_pair(tokenizer, first, other, sequence_length)
            tokens.append(ids)
            lengths.append(length)
            cut += was_cut
    labels = _read_labels(records, head, columns, classes) if labelled else [0] * len(records)
    texts = LabelledTexts(
        head,
        tokens,
        np.array(lengths, np.int32),
        np.repeat(np.arange(len(records), dtype=np.int32), size),
        [label for label in labels for _ in range(size)],
        np.full(len(tokens), labelled, np.float32),
        size,
        tokenizer.pad_id,
    )
    return LabelledExamples(records, texts, cut)


def _texts_in(records, column):
    return [text_in(record, number, column) for number, record in enumerate(records)]


def join_pair(
    tokenizer: Tokenizer, first: Sequence[int], second: Sequence[int] | None, sequence_length: int
) -> tuple[Int32[np.ndarray, " L"], int, bool]:
    """[CLS] first [SEP], or [CLS] first [SEP] second [SEP]; the longer of a pair is cut first.

    A vocabulary of GPT has its end piece in all these places.

    Returns:
      The ids, how many of them are of the first sentence, and whether some were cut off.
    """
    if second is None:
        kept = list(first[: sequence_length - 2])
        ids = [tokenizer.start_id, *kept, tokenizer.end_id]
        return np.array(ids, np.int32), len(ids), len(kept) < len(first)
    room = sequence_length - 3
    sizes = [len(first), len(second)]
    if sum(sizes) > room:  # take from the longer one until both are equal, then from both
        shorter = min(min(sizes), room // 2)
        longer = room - shorter
        sizes = [longer, shorter] if sizes[0] > sizes[1] else [shorter, longer]
    parts = [*first[: sizes[0]]], [*second[: sizes[1]]]
    ids = [tokenizer.start_id, *parts[0], tokenizer.end_id, *parts[1], tokenizer.end_id]
    return np.array(ids, np.int32), len(parts[0]) + 2, sum(map(len, parts)) < len(first) + len(second)


def _read_labels(records, head, columns, classes):
    places = {name: number for number, name in enumerate(classes)}
    labels = []
    for number, record in enumerate(records):
        if head == "regression":
            labels.append(number_in(record, number, columns.label))
            continue
        label = label_name(record[columns.label])
        given = f"{place_of(record, number)} has the label {label!r} in column {columns.label!r}"
        if head == "classification":
            require(label in places, f"{given}; expected one of {', '.join(classes)}")
            labels.append(places[label])
        else:
            right = NUMBER.fullmatch(label) and 0 <= int(label) < len(columns.choices)
            require(bool(right), f"{given}; expected a number from 0 to {len(columns.choices) - 1}")
            labels.append(int(label))
    return labels


def _encode_words(records, tokenizer, columns, classes, sequence_length, labelled):
    places = {name: number for number, name in enumerate(classes)}
    records = [_with_words(record, number, columns, labelled) for number, record in enumerate(records)]
    encoded = iter(tokenizer.encode([str(word) for record in records for word in record[columns.text]]))
    room, tokens, labels, examples, starts = sequence_length - 2, [], [], [], []
    for number, record in enumerate(records):
        words = [next(encoded) or [tokenizer.unknown_id] for _ in record[columns.text]]
        tags = record[columns.label] if labelled else [NO_LABEL] * len(words)
        require(len(tags) == len(words), f"{place_of(record, number)} has {len(words)} words and {len(tags)} tags")
        unknown = [tag for tag in tags if labelled and tag not in places]
        wanted = ", ".join(classes)
        require(not unknown, f"{place_of(record, number)} has the tag {unknown[:1]}; expected one of {wanted}")
        pieces = [word[:room] for word in words]
        for group in _groups([len(piece) for piece in pieces], room):
            ids, own, first = [tokenizer.start_id], [IGNORED], []
            for place in group:
                first.append(len(ids))
                ids += pieces[place]
                own += [places.get(tags[place], IGNORED)] + [IGNORED] * (len(pieces[place]) - 1)
            tokens.append(np.array([*ids, tokenizer.end_id], np.int32))
            labels.append(np.array([*own, IGNORED], np.int32))
            starts.append(np.array(first, np.int32))
            examples.append(number)
    texts = LabelledTexts(
        "token",
        tokens,
        np.array([len(ids) for ids in tokens], np.int32),
        np.array(examples, np.int32),
        labels,
        np.ones(len(tokens), np.float32),
        1,
        tokenizer.pad_id,
    )
    return LabelledExamples(records, texts, 0, words=starts)


def _with_words(record, number, columns, labelled):
    """A record with lists of words and of tags."""
    lists = {columns.text: words_in(record, number, columns.text)}
    if labelled:
        lists[columns.label] = classes_in(record, number, columns.label, of_words=True)
    return with_values(record, lists)


def _groups(sizes, room):
    """Neighbours together, as many as fit; one empty group where there is nothing."""
    groups, used = [[]], 0
    for place, size in enumerate(sizes):
        if used + size > room:
            groups.append([])
            used = 0
        groups[-1].append(place)
        used += size
    return groups


def _encode_contexts(records, tokenizer, columns, sequence_length, stride, labelled):
    if labelled:
        column = columns.label
        records = [with_values(each, {column: answers_in(each, i, column)}) for i, each in enumerate(records)]
    questions = tokenizer.encode(_texts_in(records, columns.second))
    contexts = tokenizer.encode_with_places(_texts_in(records, columns.text))
    tokens, first, examples, labels, windows, cut = [], [], [], [], [], 0
    for number, (record, question, (ids, places)) in enumerate(zip(records, questions, contexts, strict=True)):
        context = str(record[columns.text])
        answer = answer_characters(record, number, context, record[columns.label]) if labelled else None
        cut += len(question) > LONGEST_QUESTION
        question = question[: min(LONGEST_QUESTION, sequence_length // 2)]
        room = sequence_length - len(question) - 3
        step = min(stride, room)
        for start in range(0, max(len(ids) - room, 0) + step, step):
            part = slice(start, start + room)
            window = Window(len(question) + 2, places[part])
            text = [tokenizer.start_id, *question, tokenizer.end_id, *ids[part], tokenizer.end_id]
            tokens.append(np.array(text, np.int32))
            first.append(len(question) + 2)
            examples.append(number)
            windows.append(window)
            labels.append(_span_in(window, answer))
    texts = LabelledTexts(
        "span",
        tokens,
        np.array(first, np.int32),
        np.array(examples, np.int32),
        labels,
        np.full(len(tokens), labelled, np.float32),
        1,
        tokenizer.pad_id,
    )
    return LabelledExamples(records, texts, cut, windows=windows)


def _span_in(window, answer):
    """First and last token of an answer; of one that is not wholly in the window, and of none, [CLS]."""
    if answer is None or not window.places:
        return 0, 0
    touched = [i for i, (start, stop) in enumerate(window.places) if start < answer[1] and stop > answer[0]]
    inside = touched and window.places[0][0] <= answer[0] and answer[1] <= window.places[-1][1]
    return (window.start + touched[0], window.start + touched[-1]) if inside else (0, 0)
