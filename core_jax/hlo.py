"""The text of a compiled program as instructions, and how often each of its computations runs."""

import collections
import dataclasses
import math
import re

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program."""

    name: str
    shape: str
    operation: str
    arguments: str  # between the parentheses
    rest: str  # attributes
    is_root: bool  # whether it is the result of its computation

    @property
    def operands(self) -> list[str]:
        """The names of the instructions that it works on."""
        return re.findall(r"%([\w.\-]+)", self.arguments)

    def called(self, attribute: str) -> str | None:
        """The name of the computation that an attribute such as `body` names."""
        match = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.rest)
        return match[1] if match else None


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program."""

    computations: dict[str, list[Instruction]]
    turns: collections.Counter[str]  # how often each computation runs when the program runs once


def read_program(text: str) -> Program:
    """Reads `compiled.as_text()`."""
    computations, entry, current = {}, "", None
    for line in text.splitlines():
        header = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$", line)
        if header:
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif current is not None and (instruction := _instruction(line)):
            current.append(instruction)
    return Program(computations, _turns(computations, entry))


def _instruction(line):
    match = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
    if not match:
        return None
    start = match.end()
    end = _closing(line, start) if line[start] == "(" else line.find(" ", start)
    opening = line.find("(", end)
    if opening < 0:
        return None
    closing = _closing(line, opening)
    arguments = line[opening + 1 : closing - 1]
    return Instruction(match[2], line[start:end], line[end:opening].strip(), arguments, line[closing:], bool(match[1]))


def _closing(line, start):
    depth = 0
    for place in range(start, len(line)):
        depth += {"(": 1, ")": -1}.get(line[place], 0)
        if depth == 0:
            return place + 1
    return len(line)


def _turns(computations, entry):
    turns: collections.Counter[str] = collections.Counter()
    waiting = [(entry, 1)]
    while waiting:
        name, times = waiting.pop()
        turns[name] += times
        instructions = {instruction.name: instruction for instruction in computations.get(name, ())}
        for instruction in instructions.values():
            factor = _trips(instruction, instructions, computations) if instruction.operation == "while" else 1
            called = re.findall(r"(?:calls|body|to_apply)=%?([\w.\-]+)", instruction.rest)
            for branches in re.findall(r"branch_computations=\{([^}]*)\}", instruction.rest):
                called += re.findall(r"[\w.\-]+", branches)
            waiting += [(other, factor * times) for other in called]
    return turns


def _trips(loop, around, computations):
    """How often a loop turns: as the compiler says, or as its counter is compared; 1 where neither is known."""
    if known := re.search(r"known_trip_count[^\d]+(\d+)", loop.rest):
        return int(known[1])
    condition = {item.name: item for item in computations.get(loop.called("condition"), ())}
    compare = next((item for item in condition.values() if item.operation == "compare"), None)
    if compare is None or "direction=LT" not in compare.rest:
        return 1
    counter, limit = (condition[name] for name in compare.operands)
    place = re.search(r"index=(\d+)", counter.rest)
    if limit.operation != "constant" or not place:
        return 1
    initial = around.get(loop.operands[0])
    start = around.get(initial.operands[int(place[1])]) if initial and initial.operation == "tuple" else None
    first = int(start.arguments) if start and start.operation == "constant" else 0
    return max(int(limit.arguments) - first, 1)


def shape_bytes(shape: str) -> int:
    """Bytes of an array or of a tuple of arrays, written as in a program's text."""
    arrays = re.findall(r"([a-z]+\d*)\[([\d,]*)\]", shape)
    return sum(BYTES.get(kind, 0) * math.prod(int(n) for n in sizes.split(",") if n) for kind, sizes in arrays)


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
