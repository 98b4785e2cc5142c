"""Several examples in one row: which stand together follows from their lengths alone, and is known before any is made.

Axes: N examples, R rows, T positions of a row, S examples of a row.
"""

import bisect
import dataclasses
import heapq
import itertools
import math
import threading
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int, Int32, Int64

# Lengths of the examples of a row, the longest first -> number of such rows.
Patterns = dict[tuple[int, ...], int]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which examples stand in which row. Rows of one pattern follow each other.

    Attributes:
      order: examples, those of one length together.
      first_rows: of each pattern its first row, and the number of rows at the end.
      first_members: of each pattern the place in `order` of each member of its first row; the next row has the next.
      tokens: in all rows together.
    """

    order: Int32[np.ndarray, " N"]
    first_rows: list[int]
    first_members: list[Int64[np.ndarray, " _"]]
    tokens: int

    def __len__(self) -> int:
        return self.first_rows[-1]

    def members(self, row: int) -> Int32[np.ndarray, " _"]:
        """The examples of a row, the longest first."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        pattern = bisect.bisect_right(self.first_rows, row) - 1
        return self.order[self.first_members[pattern] + (row - self.first_rows[pattern])]


def plan_rows(
    lengths: Int[np.ndarray, " N"],
    capacity: int,
    maximum_per_row: int,
    *,
    rng: np.random.Generator,
    rows: int | None = None,
) -> Plan:
    """Puts examples into rows: the longest first, each into the fullest row that still has room.

    It works on the number of examples of each length, so its own cost hardly grows with the number of examples.

    Args:
      lengths: of the examples, 1 .. capacity.
      capacity: positions of a row, T.
      maximum_per_row: examples of a row at most, S.
      rng: decides which of the examples of one length goes where.
      rows: how many there must be; by default as many as are needed. Where fewer are needed, those with the most
        examples are split; where more are needed, the emptiest are left out, with their examples.
    Returns:
      The plan; without `rows` it holds each example once.
    Raises:
      ValueError: a length does not fit into a row, or there are fewer examples than rows.
    Source: longest-pack-first histogram-packing, Krell et al. 2021, section 3.2.3, https://arxiv.org/abs/2107.02027
    """
    if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= capacity:
        raise ValueError(f"lengths from {lengths.min()} to {lengths.max()} in rows of {capacity}")
    patterns = _pack(np.bincount(lengths, minlength=capacity + 1).tolist(), capacity, maximum_per_row)
    if rows is not None:
        patterns = _split(patterns, rows - sum(patterns.values()))
        patterns = _leave_out(patterns, sum(patterns.values()) - rows)
    # Sorting small numbers is many times faster than sorting large ones; random ties let neighbours meet others.
    shuffled = rng.permutation(len(lengths)).astype(np.int32)
    order = shuffled[np.argsort(lengths.astype(np.min_scalar_type(capacity))[shuffled], kind="stable")]
    next_member = np.searchsorted(lengths[order], np.arange(capacity + 1)).tolist()
    first_rows, first_members = [0], []
    for pattern, count in patterns.items():
        places = []
        for length in pattern:
            places.append(next_member[length])
            next_member[length] += count
        first_rows.append(first_rows[-1] + count)
        first_members.append(np.array(places, np.int64))
    return Plan(order, first_rows, first_members, sum(sum(pattern) * count for pattern, count in patterns.items()))


def _pack(histogram: list[int], capacity: int, maximum: int) -> Patterns:
    """The patterns of rows that hold as many examples of each length as the histogram says."""
    open_rows: list[Patterns] = [{} for _ in range(capacity + 1)]  # by free positions
    closed: Patterns = {}

    def fill(pattern, available, free, length, wanted):
        """Adds up to `wanted` examples to rows of a pattern, each row filled up before the next; how many it added."""
        copies = min(free // length, maximum - len(pattern))
        full = min(available, wanted // copies)
        rest = 1 if full < available and wanted % copies and wanted // copies == full else 0
        for rows, added in ((full, copies), (rest, wanted % copies)):
            if rows:
                grown, left = pattern + (length,) * added, free - length * added
                target = open_rows[left] if left and len(grown) < maximum else closed
                target[grown] = target.get(grown, 0) + rows
        return full + rest, full * copies + rest * (wanted % copies)

    for length in range(capacity, 0, -1):
        wanted = histogram[length]
        for free in range(length, capacity + 1):
            if not wanted:
                break
            for pattern, available in list(open_rows[free].items()):
                touched, added = fill(pattern, available, free, length, wanted)
                open_rows[free][pattern] -= touched
                if not open_rows[free][pattern]:
                    del open_rows[free][pattern]
                wanted -= added
                if not wanted:
                    break
        if wanted:
            fill((), wanted, capacity, length, wanted)
    for patterns in open_rows:
        for pattern, rows in patterns.items():
            closed[pattern] = closed.get(pattern, 0) + rows
    return closed


def _split(patterns: Patterns, missing: int) -> Patterns:
    """Splits the rows with the most examples, until `missing` more are there."""
    result, largest = dict(patterns), [(-len(pattern), pattern) for pattern in patterns]
    heapq.heapify(largest)
    while missing > 0:
        size, pattern = heapq.heappop(largest)
        if size == -1:
            raise ValueError(f"{missing} rows more than examples")
        rows = min(missing, result[pattern])
        result[pattern] -= rows
        missing -= rows
        for half in (pattern[::2], pattern[1::2]):
            if half not in result:
                heapq.heappush(largest, (-len(half), half))
            result[half] = result.get(half, 0) + rows
    return {pattern: rows for pattern, rows in result.items() if rows}


def _leave_out(patterns: Patterns, surplus: int) -> Patterns:
    """Drops the `surplus` rows with the fewest tokens."""
    result = dict(patterns)
    for pattern in sorted(patterns, key=lambda pattern: (sum(pattern), pattern)):
        dropped = min(max(surplus, 0), result[pattern])
        result[pattern] -= dropped
        surplus -= dropped
    return {pattern: rows for pattern, rows in result.items() if rows}


class PackedEpochs:
    """The plans of all epochs, each with the same number of rows; may be shared by threads and sent to processes.

    The number is what epoch 0 needs and a reserve, so that a position in the stream says its epoch and row by plain
    division. An epoch that needs fewer rows has some that hold fewer examples than they could. Where lengths differ so
    much between epochs that one needs more, the examples of its emptiest rows are left out of that epoch.
    """

    def __init__(
        self,
        lengths: Callable[[int], Int[np.ndarray, " N"]],
        *,
        capacity: int,
        maximum_per_row: int,
        seed: int,
        reserve: float = 0.0,
    ):
        """Plans epoch 0.

        Args:
          lengths: epoch -> length of every example in it, 1 .. capacity; a pure function.
          capacity: positions of a row, T.
          maximum_per_row: examples of a row at most, S.
          seed: of the plans.
          reserve: share of rows beyond those that epoch 0 needs; there are never more rows than examples.
        """
        self._lengths, self._capacity, self._maximum, self._seed = lengths, capacity, maximum_per_row, seed
        self._lock = threading.Lock()
        self._plans: dict[int, Plan] = {}
        self._rows: int | None = None  # as many as are needed
        needed = self.plan(0)
        self._rows = min(len(needed) + math.ceil(len(needed) * reserve), len(needed.order))
        self._plans = {}

    def __len__(self) -> int:
        """Rows of an epoch."""
        return self._rows or 0

    def plan(self, epoch: int) -> Plan:
        """The plan of an epoch; those of the last two that were asked for are kept."""
        plan = self._plans.get(epoch)
        if plan is not None:
            return plan
        with self._lock:
            if epoch not in self._plans:
                # A stream of its own: examples draw from the key (seed, 0).
                key = np.array([self._seed, 1], np.uint64)
                rng = np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, 0, epoch], np.uint64)))
                plan = plan_rows(self._lengths(epoch), self._capacity, self._maximum, rng=rng, rows=self._rows)
                # A new dict, since other threads read the old one without the lock.
                self._plans = dict([*self._plans.items(), (epoch, plan)][-2:])
            return self._plans[epoch]

    def members(self, epoch: int, row: int) -> Int32[np.ndarray, " _"]:
        """The examples of a row."""
        return self.plan(epoch).members(row)

    def __getstate__(self):
        return self.__dict__ | {"_lock": None, "_plans": {}}

    def __setstate__(self, state):
        self.__dict__.update(state | {"_lock": threading.Lock()})


def lay_out(
    lengths: Sequence[int], capacity: int
) -> tuple[Int32[np.ndarray, " T"], Int32[np.ndarray, " T"], Int32[np.ndarray, " _"]]:
    """Segments, positions and first places of examples that stand one after the other in a row.

    Args:
      lengths: of the examples of one row.
      capacity: positions of the row, T.
    Returns:
      The segment of each position: 1, 2, ... in the examples, 0 in the padding; its place in its own example, 0 in
      the padding; and where each example starts.
    Raises:
      ValueError: the examples do not fit.
    """
    ends = np.cumsum(lengths, dtype=np.int32)
    if ends[-1] > capacity:
        raise ValueError(f"{ends[-1]} tokens in a row of {capacity}")
    segments, positions = np.zeros(capacity, np.int32), np.zeros(capacity, np.int32)
    starts = np.array([0, *ends[:-1]], np.int32)
    for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True), start=1):
        segments[start:end] = number
        positions[start:end] = np.arange(end - start)
    return segments, positions, starts


def largest_sum(value: Callable[[int], int], capacity: int, maximum_per_row: int, shortest: int = 1) -> int:
    """The most that the examples of one row can add up to.

    Args:
      value: of an example, from its length; 0 or more.
      capacity: positions of a row, T.
      maximum_per_row: examples of a row at most, S.
      shortest: length that every example has at least.
    Returns:
      The largest sum over all rows that are possible, exactly.
    """
    worth = [(length, value(length)) for length in range(shortest, capacity + 1)]
    # Of two lengths of one value only the shorter can be of use.
    useful = [pair for before, pair in itertools.pairwise([(0, -1), *worth]) if pair[1] > before[1]]
    best = np.zeros(capacity + 1, np.int64)  # with so many positions, of so many examples as there were rounds
    for _ in range(min(maximum_per_row, capacity // shortest)):
        longer = best.copy()
        for length, gain in useful:
            np.maximum(longer[length:], best[: capacity + 1 - length] + gain, out=longer[length:])
        best = longer
    return int(best[-1])
