"""Batches of labelled texts: the very examples that (seed, step) names, packed into as few rows as they need.

Packing changes neither which examples a step learns from nor its loss, only how much of the rows is padding. Few shapes
occur, so few programs are compiled.

Axes: N texts, R rows, T positions, S texts of a row, G examples (groups of texts) of a batch, C texts of an example.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32, Int, Int32, PyTree

from bert_jax.model import Head
from core_jax.data import Order
from core_jax.draws import generator
from core_jax.packing import lay_out, plan_rows
from core_jax.sharding import batch_parts, global_batch, local_rows

SHORTEST = 8  # positions of a row for each of the texts that it may hold
STEPS_AN_OCTAVE = 4  # numbers of rows that occur between one and its double
IGNORED = -1  # label of a token that is not asked for


@dataclasses.dataclass(frozen=True)
class LabelledTexts:
    """Texts as ids, with their labels.

    Attributes:
      head: what is labelled.
      tokens: of each text, special ones included.
      first: number of each text's tokens that are of the first sentence (type 0).
      examples: the example that each text belongs to, ascending: choices and the windows of a long text share one.
      labels: of each text: a class, a number, the classes of its tokens, or its first and last token; of a choice, on
        each of its texts, the place of the right one.
      weights: what each text counts in the loss.
      texts_per_example: C for choices, else 1: then each text is drawn by itself.
      pad_id: token of the padding.
      tag_weights: what a tag of each class counts in the loss; None: all the same.
    """

    head: Head
    tokens: Sequence[Int32[np.ndarray, " _"]]
    first: Int32[np.ndarray, " N"]
    examples: Int32[np.ndarray, " N"]
    labels: Sequence[Any]
    weights: Float32[np.ndarray, " N"]
    texts_per_example: int
    pad_id: int
    tag_weights: Float32[np.ndarray, " C"] | None = None

    def __len__(self) -> int:
        """How many there are to draw."""
        return len(self.tokens) // self.texts_per_example

    def members(self, drawn: Int[np.ndarray, " G"]) -> Int[np.ndarray, " _"]:
        """The texts of what was drawn, an example's one after the other."""
        return (drawn[:, None] * self.texts_per_example + np.arange(self.texts_per_example)).ravel()


def rounded_rows(needed: int, multiple: int) -> int:
    """The smallest number that may occur and holds as many: a multiple, with few others near it."""
    count = -(-needed // multiple)
    step = max(1, 2 ** (max(count - 1, 1).bit_length() - 1) // STEPS_AN_OCTAVE)
    return -(-count // step) * step * multiple


def row_capacity(longest: int, sequence_length: int) -> int:
    """Positions of the rows of a batch: a quarter, half or all of `sequence_length`, as its longest text needs."""
    return next(
        size for size in (-(-sequence_length // 4), -(-sequence_length // 2), sequence_length) if longest <= size
    )


def pack_texts(
    data: LabelledTexts, drawn: Int[np.ndarray, " G"], sequence_length: int, multiple: int, seed: int = 0
) -> dict[str, Any]:
    """One batch.

    Args:
      data: all texts.
      drawn: examples of the batch.
      sequence_length: positions of a row at most, T.
      multiple: of the rows, so that devices share them evenly.
      seed: decides between texts of one length.
    Returns:
      What `labelling_loss` reads, and "texts" Int[R, S]: which text stands where, -1 where none does.
    """
    texts, capacity = plan_texts(data, drawn, sequence_length, seed)
    return lay_labelled(data, drawn, texts, capacity, rounded_rows(len(texts), multiple), multiple)


def plan_texts(
    data: LabelledTexts, drawn: Int[np.ndarray, " G"], sequence_length: int, seed: int = 0
) -> tuple[list[Int[np.ndarray, " _"]], int]:
    """Which texts stand in each row of a batch, and the positions of its rows; arguments as for `pack_texts`."""
    members = data.members(drawn)
    lengths = np.array([len(data.tokens[text]) for text in members])
    capacity = row_capacity(int(lengths.max()), sequence_length)
    room = max(1, capacity // SHORTEST)
    plan = plan_rows(lengths, capacity, room, rng=generator(seed, 0, 0))
    return [members[plan.members(row)] for row in range(len(plan))], capacity


def lay_labelled(
    data: LabelledTexts,
    drawn: Int[np.ndarray, " G"],
    texts_of_rows: Sequence[Int[np.ndarray, " _"]],
    capacity: int,
    rows: int,
    multiple: int,
) -> dict[str, Any]:
    """A planned batch: arguments and result as for `lay_texts` and `pack_texts`."""
    batch = lay_texts(data, texts_of_rows, capacity, rows)
    return batch | _labels(data, batch, drawn, multiple)


def lay_texts(
    data: LabelledTexts, texts_of_rows: Sequence[Int[np.ndarray, " _"]], capacity: int, rows: int
) -> dict[str, Any]:
    """The rows of a batch without their labels.

    Args:
      data: all texts.
      texts_of_rows: which texts stand in each row, together not longer than it.
      capacity: positions of a row, T.
      rows: how many there are to be; those beyond the given ones are padding.
    Returns:
      As `pack_texts`.
    """
    room = max(1, capacity // SHORTEST)
    batch: dict[str, Any] = {name: np.zeros((rows, capacity), np.int32) for name in ("segments", "types", "positions")}
    batch["tokens"] = np.full((rows, capacity), data.pad_id, np.int32)
    batch["cls_positions"], batch["texts"] = np.zeros((rows, room), np.int32), np.full((rows, room), -1, np.int32)
    for row, texts in enumerate(texts_of_rows):
        ids = [data.tokens[text] for text in texts]
        segments, positions, starts = lay_out([len(part) for part in ids], capacity)
        batch["segments"][row], batch["positions"][row] = segments, positions
        batch["cls_positions"][row, : len(texts)], batch["texts"][row, : len(texts)] = starts, texts
        flat = np.concatenate(ids)
        batch["tokens"][row, : len(flat)] = flat
        firsts = np.repeat(data.first[texts], [len(part) for part in ids])
        batch["types"][row, : len(flat)] = positions[: len(flat)] >= firsts
    return batch


def _labels(data: LabelledTexts, batch: dict[str, Any], drawn: Int[np.ndarray, " G"], multiple: int) -> dict[str, Any]:
    texts, (rows, capacity) = batch["texts"], batch["tokens"].shape
    there, shape = texts >= 0, texts.shape
    weights = np.where(there, data.weights[texts], 0).astype(np.float32)
    if data.head == "choice":
        place = np.full(len(data.tokens), 0, np.int64)
        place[texts[there]] = np.flatnonzero(there)
        groups = rounded_rows(len(drawn), multiple)
        choices = np.zeros((groups, data.texts_per_example), np.int32)
        choices[: len(drawn)] = place[data.members(drawn).reshape(len(drawn), -1)]
        labels, counts = np.zeros(groups, np.int32), np.zeros(groups, np.float32)
        labels[: len(drawn)] = [data.labels[number * data.texts_per_example] for number in drawn]
        counts[: len(drawn)] = data.weights[drawn * data.texts_per_example]
        return {"choices": choices, "labels": labels, "weights": {"label": counts}}
    if data.head == "token":
        labels = np.full((rows, capacity), IGNORED, np.int32)
        for row, column in zip(*np.nonzero(there), strict=True):
            start, own = batch["cls_positions"][row, column], data.labels[texts[row, column]]
            labels[row, start : start + len(own)] = own
        asked, labels = labels != IGNORED, np.maximum(labels, 0)
        counts = 1 if data.tag_weights is None else data.tag_weights[labels]
        return {"labels": labels, "weights": {"label": np.where(asked, counts, 0).astype(np.float32)}}
    if data.head == "span":
        labels = np.zeros((*shape, 2), np.int32)
        for row, column in zip(*np.nonzero(there), strict=True):
            labels[row, column] = np.array(data.labels[texts[row, column]]) + batch["cls_positions"][row, column]
        return {"labels": labels, "weights": {"first": weights, "last": weights}}
    kind = np.float32 if data.head == "regression" else np.int32
    labels = np.zeros(shape, kind)
    labels[there] = np.asarray(data.labels)[texts[there]]
    return {"labels": labels, "weights": {"label": weights}}


def on_devices(batch: dict[str, Any], mesh: Mesh) -> PyTree:
    """A whole batch -> global arrays, of which each host gives its own rows."""
    return global_batch(jax.tree.map(lambda leaf: leaf[local_rows(mesh, len(leaf))], without_places(batch)), mesh)


def without_places(batch: dict[str, Any]) -> dict[str, Any]:
    """What goes to the devices: a batch without "texts"."""
    return {name: value for name, value in batch.items() if name != "texts"}


def labelled_batches(
    data: LabelledTexts,
    mesh: Mesh,
    *,
    batch_size: int,
    sequence_length: int,
    seed: int,
    first_step: int,
    last_step: int,
) -> Iterator[PyTree]:
    """The batches of steps first_step .. last_step - 1, made ahead in the background.

    Args:
      data: to draw from, epoch after epoch, each in an order of its own.
      mesh: where the batches go.
      batch_size: examples of a batch.
      sequence_length: positions of a row at most.
      seed: of the order.
      first_step: number of steps already taken.
      last_step: number of steps at which the run ends.
    """
    order, multiple = Order(len(data), seed), batch_parts(mesh)

    def draw(step: int) -> dict[str, Any]:
        return pack_texts(data, draw_examples(order, step, batch_size), sequence_length, multiple, seed)

    for batch in made_ahead(draw, first_step, last_step):
        yield on_devices(batch, mesh)


def draw_examples(order: Order, step: int, batch_size: int) -> Int[np.ndarray, " G"]:
    """The examples of a step's batch."""
    return np.array([order(step * batch_size + place)[1] for place in range(batch_size)])


def made_ahead(make: Callable[[int], Any], first_step: int, last_step: int) -> Iterator[Any]:
    """What `make` gives for each step, made in the background."""
    batches = grain.MapDataset.range(first_step, last_step).map(make)
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)))


def unlabelled_batches(
    data: LabelledTexts, *, batch_size: int, sequence_length: int, multiple: int
) -> Iterator[dict[str, Any]]:
    """Every text once, in rows that hold as many as fit; all batches are of one shape.

    Rows of texts of one length together would hold less: two texts of 70 do not fit into 128 positions.

    Args:
      data: all texts; labels do not count.
      batch_size: texts of a batch, on average.
      sequence_length: positions of a row at most.
      multiple: of the rows of a batch.
    Yields:
      What `pack_texts` returns, without labels.
    """
    texts, capacity = plan_texts(data, np.arange(len(data)), sequence_length)
    rows = rounded_rows(-(-len(texts) * min(batch_size, len(data)) // len(data)), multiple)
    for start in range(0, len(texts), rows):
        yield lay_texts(data, texts[start : start + rows], capacity, rows)


def scoring_batches(
    data: LabelledTexts, mesh: Mesh, *, batch_size: int, sequence_length: int
) -> Iterator[tuple[Int32[np.ndarray, "R S"], dict[str, Any], PyTree]]:
    """Every example once, those of about one length together.

    Yields:
      Which texts stand where, the batch on the host, and the batch on the devices.
    """
    for drawn in batches_by_length(data, batch_size):
        batch = pack_texts(data, drawn, sequence_length, batch_parts(mesh))
        yield batch["texts"], batch, on_devices(batch, mesh)


def batches_by_length(data: LabelledTexts, batch_size: int) -> Iterator[Int[np.ndarray, " G"]]:
    """Every example once, those of about one length together, the longest first."""
    longest = [max(len(data.tokens[text]) for text in data.members(np.array([number]))) for number in range(len(data))]
    order = np.argsort(longest, kind="stable")[::-1]
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
