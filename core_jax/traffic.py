"""What a compiled program moves through memory and between devices; loops count as often as they turn."""

import collections
import dataclasses
import re

from core_jax.hlo import Instruction, Program, group_size, read_program, shape_bytes

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
ASYNC_START = 'custom_call_target="AsyncCollectiveStart"'
PALLAS = 'custom_call_target="tpu_custom_call"'
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
    loop_factor: float  # bytes to and from memory, relative to a count in which every loop turns once; without kernels
    kernel_bytes: int  # to and from memory by Pallas kernels, of which the compiler's own count knows nothing


@dataclasses.dataclass(frozen=True)
class Exchange:
    """One collective of a program: what it leaves on each device."""

    kind: str  # of COLLECTIVES
    shapes: tuple[tuple[int, ...], ...]  # of the arrays; the compiler joins those that are due at the same time
    group: int  # devices that take part
    turns: int  # how often it runs when the program runs once
    origin: str  # what it was computed for, as the compiler remembers it


def read_traffic(text: str) -> Traffic:
    """Reads the text of a compiled program.

    Args:
      text: `compiled.as_text()`.
    Returns:
      Collectives and kernels, those inside of loops counted for every turn, and by how much loops multiply the other
      bytes moved. A kernel counts as if it read its operands and wrote its results once.
    """
    program = read_program(text)
    counts: collections.Counter = collections.Counter()
    sent: collections.Counter = collections.Counter()
    once = all_turns = kernels = 0
    fused = {item.called("calls") for items in program.computations.values() for item in items}
    for name, instructions in program.computations.items():
        if program.turns[name] and name not in fused:  # what is fused is counted where it is called
            shapes = {instruction.name: instruction.shape for instruction in instructions}
            moved, of_kernels = (
                sum(moved_bytes(program, item, shapes) for item in instructions if _is_uncounted(item) == kernel)
                for kernel in (False, True)
            )
            once, all_turns = once + moved, all_turns + program.turns[name] * moved
            kernels += program.turns[name] * of_kernels
    for kind, instruction, shapes, number in _collectives(program):
        counts[kind] += number
        sent[kind] += number * _sent(kind, instruction, shapes)
    collectives = {kind: Collective(counts[kind], sent[kind]) for kind in COLLECTIVES if counts[kind]}
    return Traffic(collectives, all_turns / max(once, 1), kernels)


def _is_uncounted(instruction):
    """A Pallas kernel whose author told the compiler nothing of its costs."""
    return PALLAS in instruction.rest and '"cost_estimate"' not in instruction.rest


def moved_bytes(program: Program, instruction: Instruction, shapes: dict[str, str]) -> int:
    """Bytes that an instruction reads and writes: of what it cuts out of an array, or puts into one, only that part.

    Args:
      program: to look up what is fused.
      instruction: not itself fused into another.
      shapes: of the instructions of its computation, by their names.
    """
    if instruction.operation in FREE or instruction.operation.endswith("-done"):
        return 0
    operands = [shape_bytes(shapes.get(name, "")) for name in instruction.operands]
    inner = program.computations.get(instruction.called("calls") or "", [])
    if inner:
        read = sum(min(_read(program, inner, place), size) for place, size in enumerate(operands))
        return read + _written(program, inner)
    if not operands or instruction.operation == "copy-start":  # room is made; a copy to or from fast memory
        return 2 * sum(operands)
    if instruction.operation == "slice-start":  # its shape is (what is cut, the part, a token)
        return 2 * shape_bytes(instruction.shape) - 2 * sum(operands)
    if instruction.operation == "dynamic-slice":
        return 2 * shape_bytes(instruction.shape)
    if instruction.operation == "dynamic-update-slice":
        return 2 * operands[1]
    return shape_bytes(instruction.shape) + sum(operands)


def _read(program, fused, place):
    """Bytes that a fused computation reads of one of its parameters."""
    parameter = next((item for item in fused if item.operation == "parameter" and item.arguments == str(place)), None)
    return 0 if parameter is None else _read_of(program, fused, parameter)


def _read_of(program, fused, source):
    total = 0
    for item in fused:
        for place in (place for place, name in enumerate(item.operands) if name == source.name):
            inner = program.computations.get(item.called("calls") or "", [])
            if inner:
                total += _read(program, inner, place)
            elif item.operation in ("bitcast", "get-tuple-element", "tuple"):
                total += _read_of(program, fused, item)
            elif item.operation == "dynamic-slice" and place == 0:
                total += shape_bytes(item.shape)
            elif not (item.operation == "dynamic-update-slice" and place == 0):  # that one is changed in place
                total += shape_bytes(source.shape)
    return total


def _written(program, fused):
    """Bytes that a fused computation writes."""
    named = {item.name: item for item in fused}
    waiting, total = [item for item in fused if item.is_root], 0
    while waiting:
        item = waiting.pop()
        inner = program.computations.get(item.called("calls") or "", [])
        if item.operation in ("tuple", "bitcast"):
            waiting += [named[name] for name in item.operands if name in named]
        elif inner:
            total += _written(program, inner)
        elif item.operation == "dynamic-update-slice":
            total += shape_bytes(named[item.operands[1]].shape)
        else:
            total += shape_bytes(item.shape)
    return total


def list_exchanges(text: str) -> list[Exchange]:
    """Every collective in the text of a compiled program, those that never run left out."""
    return [_exchange(kind, item, turns) for kind, item, _, turns in _collectives(read_program(text))]


def _collectives(program):
    """Each collective that runs: (kind, instruction, shapes around it, turns)."""
    # Where the compiler for TPU computes while it communicates, one collective stands in several fusions: in the one
    # that starts it, in those that bring it forward and in the last. It counts in the first; all have its channel.
    starting = {name for name, found in program.computations.items() if any(ASYNC_START in item.rest for item in found)}
    started = {_channel(item) for name in starting for item in program.computations[name]} - {None}
    for name, instructions in program.computations.items():
        shapes = {instruction.name: instruction.shape for instruction in instructions}
        for instruction in instructions:
            kind = instruction.operation.removesuffix("-start")
            continues = name not in starting and _channel(instruction) in started
            if kind in COLLECTIVES and program.turns[name] and not continues:
                yield kind, instruction, shapes, program.turns[name]


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
