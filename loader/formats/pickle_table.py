"""Pickles read as data: names stay names, calls become inert records, and nothing is ever imported or executed.

The opcodes are those of CPython's Lib/pickletools.py, protocols 0 to 5; what the names stand for is in pickle_names.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct

from ..errors import InvalidCheckpointError
from .pickle_names import CALLS, HARMLESS, MAX_ARGUMENTS, Opaque, Storage, TensorRecord, set_item

MAX_STEPS = 2_000_000  # torch.save writes some 45 opcodes a tensor
_MAX_NAMES = 1_000
_MAX_NAME_LENGTH = 1_000


@dataclass(frozen=True, slots=True)
class Unpickled:
    """What one pickle holds and where it ends; all its storages; its names not known to be harmless; how many tensors it makes."""

    value: object
    end: int
    storages: tuple[Storage, ...]
    foreign_names: frozenset[str]
    tensor_count: int


def read_pickle(data: bytes, *, file: str, start: int = 0) -> Unpickled:
    """The pickle that begins at `start`. Raises InvalidCheckpointError where it is broken or longer than any checkpoint's."""
    machine = _Machine(data, start)
    try:
        value = machine.run()
    except _RefusedError as error:
        raise InvalidCheckpointError(f"the pickle {error} at byte {machine.position:,}", file=file) from None
    except (EOFError, LookupError, ValueError, struct.error):
        message = f"the pickle is broken or cut short at byte {machine.position:,}"
        raise InvalidCheckpointError(message, file=file, hint="download it again") from None
    return Unpickled(value, machine.position, tuple(machine.storages), frozenset(machine.foreign_names), machine.tensor_count)


class _RefusedError(Exception):
    """The pickle asks for what no checkpoint needs; says what."""


class _Machine:
    """Runs a pickle's opcodes on a stack of plain values."""

    __slots__ = ("data", "foreign_names", "marks", "memo", "position", "stack", "steps", "storages", "tensor_count")

    def __init__(self, data: bytes, start: int) -> None:
        self.data = data
        self.position = start
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        self.memo: dict[int, object] = {}
        self.storages: list[Storage] = []
        self.foreign_names: set[str] = set()
        self.tensor_count = 0
        self.steps = 0  # that calls take beyond their own opcode

    def run(self) -> object:
        data, opcodes = self.data, _OPCODES
        for _ in range(MAX_STEPS):
            opcode = data[self.position]
            self.position += 1
            if opcode == _STOP:
                return self.stack.pop()
            if opcode not in opcodes:
                raise _RefusedError(f"has the opcode {opcode:#04x}, which is none of a checkpoint's")
            opcodes[opcode](self)
        raise _RefusedError(f"has more than {MAX_STEPS:,} steps")

    def take(self, length: int) -> bytes:
        end = self.position + length
        if length < 0 or end > len(self.data):
            raise EOFError
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def line(self) -> bytes:
        return self.take(self.data.index(b"\n", self.position) + 1 - self.position)[:-1]

    def number(self, layout: Struct) -> int:
        value = layout.unpack_from(self.data, self.position)[0]
        self.position += layout.size
        return value

    def push(self, value: object) -> None:
        self.stack.append(value)

    # Marks and the memo

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[object]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def put(self, index: int) -> None:
        if not 0 <= index < 2**32:
            raise ValueError
        self.memo[index] = self.stack[-1]

    # Collections

    def append(self) -> None:
        self.extend([self.stack.pop()])

    def extend(self, items: list[object]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target += items

    def set_items(self, items: list[object]) -> None:
        target = self.stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            set_item(target, key, value)

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        set_item(self.stack[-1], key, value)

    def new_dict(self) -> None:
        items = self.pop_mark()
        self.push({})
        self.set_items(items)

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise EOFError
        self.stack[-count:] = [tuple(self.stack[-count:])]

    # Names, calls and persistent ids

    def name(self, module: object, attribute: object) -> Opaque:
        if type(module) is not str or type(attribute) is not str:
            raise ValueError
        if len(module) + len(attribute) > _MAX_NAME_LENGTH:
            raise _RefusedError(f"has a name of more than {_MAX_NAME_LENGTH:,} characters")
        name = f"{module}.{attribute}"
        if name not in HARMLESS:
            self.foreign_names.add(name.encode("utf-8", "backslashreplace").decode())
            if len(self.foreign_names) > _MAX_NAMES:
                raise _RefusedError(f"names more than {_MAX_NAMES:,} classes and functions")
        return Opaque(name)

    def stack_global(self) -> None:
        attribute, module = self.stack.pop(), self.stack.pop()
        self.push(self.name(module, attribute))

    def call(self, function: object, args: object) -> None:
        name = function.name if isinstance(function, Opaque) else "something without a name"
        make = CALLS.get(name)
        if make is None or not isinstance(args, tuple):
            self.push(Opaque(name))
            return
        if len(args) > MAX_ARGUMENTS:
            raise ValueError
        if args and isinstance(args[0], (list, tuple)):
            self.steps += len(args[0])
            if self.steps > MAX_STEPS:
                raise _RefusedError(f"has more than {MAX_STEPS:,} steps")
        value = make(*args)
        self.tensor_count += isinstance(value, TensorRecord) and value is not args[0]
        self.push(value)

    def reduce(self) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        self.call(function, args)

    def new_object_with_keywords(self) -> None:
        self.stack.pop()
        self.reduce()

    def instance(self) -> None:
        function = self.name(_utf8(self.line()), _utf8(self.line()))
        self.call(function, tuple(self.pop_mark()))

    def marked_object(self) -> None:
        function, *args = self.pop_mark() or [None]
        self.call(function, tuple(args))

    def persistent_id(self) -> None:
        """('storage', class, key, location, numel) and, in the oldest files, a view of it; ('module', class, ...) is a class."""
        match self.stack.pop():
            case ("storage", Opaque(name=kind), key, _, numel, *view) if len(view) < 2:
                self.storages.append(Storage(kind, key, numel, view[0] if view else None))
                self.push(self.storages[-1])
            case ("module", Opaque(name=kind), *_):
                self.push(Opaque(kind))
            case _:
                raise _RefusedError("has a persistent id that is no storage")


def _utf8(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _old_text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _signed(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _constant(value: object) -> _Opcode:
    return lambda machine: machine.push(value)


def _number(layout: str) -> _Opcode:
    number = Struct(layout)
    return lambda machine: machine.push(machine.number(number))


def _sized(layout: str, convert: Callable[[bytes], object]) -> _Opcode:
    length = Struct(layout)
    return lambda machine: machine.push(convert(machine.take(machine.number(length))))


def _line(convert: Callable[[bytes], object]) -> _Opcode:
    return lambda machine: machine.push(convert(machine.line()))


def _put(layout: str) -> _Opcode:
    number = Struct(layout)
    return lambda machine: machine.put(machine.number(number))


def _get(layout: str) -> _Opcode:
    number = Struct(layout)
    return lambda machine: machine.push(machine.memo[machine.number(number)])


def _extension(layout: str) -> _Opcode:
    number = Struct(layout)
    return lambda machine: machine.push(machine.name("copyreg", f"extension {machine.number(number)}"))


def _tuple(count: int) -> _Opcode:
    return lambda machine: machine.tuple_of(count)


def _skip(length: int) -> _Opcode:
    return lambda machine: machine.take(length)


_Opcode = Callable[[_Machine], object]
_STOP = ord(".")
_OPCODES: dict[int, _Opcode] = {
    ord(code): run
    for code, run in {
        # Plain values
        "N": _constant(None),
        "\x88": _constant(True),
        "\x89": _constant(False),
        "J": _number("<i"),
        "K": _number("<B"),
        "M": _number("<H"),
        "G": _number(">d"),
        "\x8a": _sized("<B", _signed),
        "\x8b": _sized("<i", _signed),
        "U": _sized("<B", _old_text),
        "T": _sized("<i", _old_text),
        "X": _sized("<I", _utf8),
        "\x8c": _sized("<B", _utf8),
        "\x8d": _sized("<Q", _utf8),
        "C": _sized("<B", bytes),
        "B": _sized("<I", bytes),
        "\x8e": _sized("<Q", bytes),
        "\x96": _sized("<Q", bytes),
        # Plain values as text, protocol 0; escapes are left as they are
        "I": _line(int),
        "L": _line(lambda text: int(text.removesuffix(b"L"))),
        "F": _line(float),
        "S": _line(lambda text: _old_text(text[1:-1])),
        "V": _line(_utf8),
        # Collections
        ")": _constant(()),
        "]": lambda machine: machine.push([]),
        "}": lambda machine: machine.push({}),
        "\x8f": lambda machine: machine.push([]),
        "l": lambda machine: machine.push(machine.pop_mark()),
        "\x91": lambda machine: machine.push(machine.pop_mark()),
        "d": _Machine.new_dict,
        "t": lambda machine: machine.push(tuple(machine.pop_mark())),
        "\x85": _tuple(1),
        "\x86": _tuple(2),
        "\x87": _tuple(3),
        "a": _Machine.append,
        "e": lambda machine: machine.extend(machine.pop_mark()),
        "\x90": lambda machine: machine.extend(machine.pop_mark()),
        "s": _Machine.set_item,
        "u": lambda machine: machine.set_items(machine.pop_mark()),
        # Stack and memo
        "(": _Machine.mark,
        "0": _Machine.pop,
        "1": lambda machine: machine.pop_mark(),
        "2": lambda machine: machine.push(machine.stack[-1]),
        "q": _put("<B"),
        "r": _put("<I"),
        "p": lambda machine: machine.put(int(machine.line())),
        "\x94": lambda machine: machine.put(len(machine.memo)),
        "h": _get("<B"),
        "j": _get("<I"),
        "g": lambda machine: machine.push(machine.memo[int(machine.line())]),
        # Names and calls; BUILD's state is dropped
        "c": lambda machine: machine.push(machine.name(_utf8(machine.line()), _utf8(machine.line()))),
        "\x93": _Machine.stack_global,
        "R": _Machine.reduce,
        "\x81": _Machine.reduce,
        "\x92": _Machine.new_object_with_keywords,
        "i": _Machine.instance,
        "o": _Machine.marked_object,
        "b": lambda machine: machine.stack.pop(),
        "Q": _Machine.persistent_id,
        "\x82": _extension("<B"),
        "\x83": _extension("<H"),
        "\x84": _extension("<i"),
        # Framing
        "\x80": _skip(1),
        "\x95": _skip(8),
    }.items()
}
