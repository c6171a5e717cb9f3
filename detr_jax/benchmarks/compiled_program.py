"""What XLA's text of a compiled program says: its operations, what they move, and what devices send each other."""

import re
from collections.abc import Iterator
from typing import NamedTuple

BYTES = {"pred": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
MOVE_NOTHING = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant"}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
TYPE = r"(\(.*?\)|\S+)"  # of a result; a tuple stands in brackets


def count_bytes(shape: str) -> int:
    """Bytes of all arrays in a type of a compiled program; s8 arrays, the work space of libraries, count nothing."""
    total = 0
    for dtype, lengths in re.findall(r"\b([a-z]+[0-9]*)\[([\d,]*)\]", shape):
        count = BYTES.get(dtype, 0)
        for length in filter(None, lengths.split(",")):
            count *= int(length)
        total += count
    return total


def split_computations(program: str) -> dict[str, str]:
    """The body of each computation by its name; the entry is one of them."""
    return dict(re.findall(r"^(?:ENTRY )?%([\w.\-]+) \(.*?\{\n(.*?)^\}", program, re.MULTILINE | re.DOTALL))


class Work(NamedTuple):
    """What a compiled program does besides arithmetic. The body of a loop counts once."""

    operations: int  # on a GPU each is a kernel to launch
    moved_bytes: int  # read and written; more than passes through the memory where a cache holds an operand


def count_work(program: str) -> Work:
    """Counts the operations of a compiled program, and the bytes of each one's distinct operands and its result."""
    entry = re.search(r"^ENTRY .*?\{\n(.*?)^\}", program, re.MULTILINE | re.DOTALL)[1]
    sizes, operations, moved = {}, 0, 0
    for name, shape, operation, rest in re.findall(
        rf"^\s*(?:ROOT )?%([\w.\-]+) = {TYPE} ([\w\-]+)\((.*)$", entry, re.MULTILINE
    ):
        sizes[name] = count_bytes(shape)
        if operation not in MOVE_NOTHING:
            operands = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
            operations += 1
            moved += sizes[name] + sum(sizes.get(operand, 0) for operand in set(operands))
    return Work(operations, moved)


class Collective(NamedTuple):
    """An operation in which all devices take part."""

    kind: str  # one of COLLECTIVES
    result_bytes: int  # of its result on each device; of an asynchronous all-gather also of its operand
    in_loop: bool  # it runs again in each turn of a loop


def find_loops(computations: dict[str, str]) -> set[str]:
    """Names of the computations that run in each turn of some loop."""
    called = {name: set(re.findall(r"%([\w.\-]+)", body)) & computations.keys() for name, body in computations.items()}
    waiting = set(re.findall(r"\b(?:body|condition)=%([\w.\-]+)", "\n".join(computations.values())))
    inside: set[str] = set()
    while waiting:
        name = waiting.pop()
        inside.add(name)
        waiting |= called[name] - inside
    return inside


def find_collectives(program: str) -> Iterator[Collective]:
    """The collectives of a compiled program. One in the body of a loop comes once."""
    computations = split_computations(program)
    loops = find_loops(computations)
    for name, body in computations.items():
        for shape, kind in re.findall(rf" = {TYPE} ({'|'.join(COLLECTIVES)})(?:-start)?\(", body):
            yield Collective(kind, count_bytes(shape), name in loops)
