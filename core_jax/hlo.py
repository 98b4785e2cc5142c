"""What a compiled program moves: a reading of its text, in which loops count as often as they turn."""

import collections
import dataclasses
import math
import re

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
ASYNC_START = 'custom_call_target="AsyncCollectiveStart"'
# No data moves, or it was counted where it started.
FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all", "while", "conditional", "call"}


@dataclasses.dataclass(frozen=True)
class Collective:
    """Communication of one kind in a program."""

    count: int  # a step
    bytes: int  # sent by each device a step


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What one device moves when a program runs once."""

    collectives: dict[str, Collective]
    loop_factor: float  # bytes to and from memory, relative to a count in which every loop turns once


@dataclasses.dataclass(frozen=True)
class Exchange:
    """One collective of a program: what it leaves on each device."""

    kind: str  # of COLLECTIVES
    shapes: tuple[tuple[int, ...], ...]  # of the arrays; the compiler joins those that are due at the same time
    group: int  # devices that take part
    turns: int  # how often it runs when the program runs once
    origin: str  # what it was computed for, as the compiler remembers it


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    shape: str
    operation: str
    operands: list[str]
    rest: str


def read_traffic(text: str) -> Traffic:
    """Reads the text of a compiled program.

    Args:
      text: `compiled.as_text()`.
    Returns:
      Collectives, those inside of loops counted for every turn; and by how much loops multiply the bytes moved.
    """
    computations, entry = _computations(text)
    turns = _turns(computations, entry)
    counts: collections.Counter = collections.Counter()
    sent: collections.Counter = collections.Counter()
    once = all_turns = 0
    for name, instructions in computations.items():
        number = turns.get(name, 0)
        if not number:
            continue
        shapes = {instruction.name: instruction.shape for instruction in instructions}
        moved = sum(_moved(instruction, shapes) for instruction in instructions)
        if not name.startswith("fused") and "fusion" not in name:
            once, all_turns = once + moved, all_turns + number * moved
    for kind, instruction, shapes, number in _collectives(computations, turns):
        counts[kind] += number
        sent[kind] += number * _sent(kind, instruction, shapes)
    collectives = {kind: Collective(counts[kind], sent[kind]) for kind in COLLECTIVES if counts[kind]}
    return Traffic(collectives, all_turns / max(once, 1))


def list_exchanges(text: str) -> list[Exchange]:
    """Every collective in the text of a compiled program, those that never run left out."""
    computations, entry = _computations(text)
    turns = _turns(computations, entry)
    return [_exchange(kind, instruction, number) for kind, instruction, _, number in _collectives(computations, turns)]


def _collectives(computations, turns):
    """Each collective that runs: (kind, instruction, shapes around it, turns)."""
    # Where the compiler for TPU computes while it communicates, one collective stands in several fusions: in the one
    # that starts it, in those that bring it forward and in the last. It counts in the first; all have its channel.
    starting = {name for name, found in computations.items() if any(ASYNC_START in item.rest for item in found)}
    started = {_channel(item) for name in starting for item in computations[name]} - {None}
    for name, instructions in computations.items():
        shapes = {instruction.name: instruction.shape for instruction in instructions}
        for instruction in instructions:
            kind = instruction.operation.removesuffix("-start")
            continues = name not in starting and _channel(instruction) in started
            if kind in COLLECTIVES and turns[name] and not continues:
                yield kind, instruction, shapes, turns[name]


def _channel(instruction):
    match = re.search(r"channel_id=(\d+)", instruction.rest)
    return match[1] if match else None


def _exchange(kind, instruction, turns):
    arrays = re.findall(r"[a-z]+\d*\[([\d,]*)\]", instruction.shape)
    if instruction.operation == f"{kind}-start" and kind != "all-reduce":  # its operands stand before its results
        arrays = arrays[len(instruction.operands) :][: len(instruction.operands)]
    shapes = tuple(tuple(int(size) for size in sizes.split(",") if size) for sizes in arrays)
    origin = re.search(r'op_name="([^"]*)"', instruction.rest)
    return Exchange(kind, shapes, group_size(instruction.rest), turns, origin[1] if origin else "")


def _computations(text):
    computations, entry, current = {}, "", None
    for line in text.splitlines():
        header = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$", line)
        if header:
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif current is not None and (instruction := _instruction(line)):
            current.append(instruction)
    return computations, entry


def _instruction(line):
    match = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line)
    if not match:
        return None
    start = match.end()
    end = _closing(line, start) if line[start] == "(" else line.find(" ", start)
    opening = line.find("(", end)
    if opening < 0:
        return None
    closing = _closing(line, opening)
    operands = re.findall(r"%([\w.\-]+)", line[opening:closing])
    return _Instruction(match[1], line[start:end], line[end:opening].strip(), operands, line[closing:])


def _closing(line, start):
    depth = 0
    for place in range(start, len(line)):
        depth += {"(": 1, ")": -1}.get(line[place], 0)
        if depth == 0:
            return place + 1
    return len(line)


def _turns(computations, entry):
    """How often each computation runs."""
    turns: collections.Counter = collections.Counter()
    waiting = [(entry, 1)]
    while waiting:
        name, times = waiting.pop()
        turns[name] += times
        for instruction in computations.get(name, ()):
            trip = re.search(r"known_trip_count[^\d]+(\d+)", instruction.rest)
            factor = int(trip[1]) if instruction.operation == "while" and trip else 1
            called = re.findall(r"(?:calls|body|to_apply)=%?([\w.\-]+)", instruction.rest)
            for branches in re.findall(r"branch_computations=\{([^}]*)\}", instruction.rest):
                called += re.findall(r"[\w.\-]+", branches)
            waiting += [(other, factor * times) for other in called]
    return turns


def shape_bytes(shape: str) -> int:
    """Bytes of an array or of a tuple of arrays, written as in a program's text."""
    arrays = re.findall(r"([a-z]+\d*)\[([\d,]*)\]", shape)
    return sum(BYTES.get(kind, 0) * math.prod(int(n) for n in sizes.split(",") if n) for kind, sizes in arrays)


def _moved(instruction, shapes):
    if instruction.operation in FREE or instruction.operation.endswith("-done"):
        return 0
    return shape_bytes(instruction.shape) + sum(shape_bytes(shapes.get(name, "")) for name in instruction.operands)


def _sent(kind, instruction, shapes):
    """Bytes that each device sends, by the ring algorithms."""
    size = group_size(instruction.rest)
    given = sum(shape_bytes(shapes.get(name, "")) for name in instruction.operands)
    share = (size - 1) / size
    if kind == "all-reduce":
        return int(2 * given * share)
    if kind == "all-gather":  # each passes on everybody's part
        return int(given * (size - 1))
    return int(given * share) if kind in ("reduce-scatter", "all-to-all") else given


def group_size(rest: str) -> int:
    """Devices that take part in one collective, from the attributes of its instruction."""
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):  # [groups, size]<=[...]
        return int(match[2])
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", match[2]))
    if match := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return match[1].count(",") + 1
    return 2  # a permutation has pairs
