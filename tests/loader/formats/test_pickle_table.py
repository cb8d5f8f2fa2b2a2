"""The pickle machine: every opcode's value, every way to name a function, and hand-made pickles that break or bloat."""

from __future__ import annotations

import collections
import pickle
from collections.abc import Callable

import pytest
import torch

from mlload.loader.errors import InvalidCheckpointError
from mlload.loader.formats.pickle_names import Opaque
from mlload.loader.formats.pickle_table import read_pickle


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.reduced = (function, args)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.reduced


def value_of(data: bytes) -> object:
    return read_pickle(data, file="model.bin").value


NUMBERS = [None, True, 0, 255, 65_535, -1, 2**31, -(2**70), 10**700, 0.5]
VALUES = [*NUMBERS, "", "ä" * 300, b"", b"x" * 300, (), (1,), (1, 2), (1, 2, 3), (1,) * 4]
TABLES = [[], [1], [1, [2, [3]]], {}, {"a": 1}, {"a": {"b": (1, "b")}, 7: [None, None]}]


@pytest.mark.parametrize("protocol", range(3, 6))
@pytest.mark.parametrize("value", [*VALUES, *TABLES], ids=lambda value: repr(value)[:20])
def test_plain_value_is_what_pickle_wrote(value: object, protocol: int) -> None:
    assert value_of(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", [0, 1, 2])
@pytest.mark.parametrize("value", TABLES, ids=repr)
def test_plain_table_of_old_protocols(value: object, protocol: int) -> None:
    assert value_of(pickle.dumps(value, protocol)) == value


WRITTEN = {
    "old text": (b"(lp0\nI1\naL2L\naF0.5\naS'x'\naV\xc3\xa4\nag0\n0.", [1, 2, 0.5, "x", "ä"]),
    "strings": (b"](U\x01aT\x01\0\0\0bB\x01\0\0\0c\x8e\x01\0\0\0\0\0\0\0d\x96\x01\0\0\0\0\0\0\0ee.", ["a", "b", b"c", b"d", b"e"]),
    "numbers": (b"](\x8a\x01\xff\x8b\x01\0\0\0\xfeG\0\0\0\0\0\0\0\0J\3\0\0\0M\4\0e.", [-1, -2, 0.0, 3, 4]),
    "set": (b"\x8f(K\x01K\x02\x90.", [1, 2]),
    "frozen set": (b"(K\x01\x91.", [1]),
    "marks": (b"K\x01(K\x02K\x031(0.", 1),
    "copy": (b"K\x012\x86.", (1, 1)),
    "memo": (b"K\x01\x94r\5\0\0\0j\0\0\0\0h\x05\x87.", (1, 1, 1)),
    "dictionary": (b"(K\x01K\x02d.", {1: 2}),
    "other keys are left out": (b"}(NK\x01K\x02K\x03)K\x04G\0\0\0\0\0\0\0\0K\x05u.", {2: 3}),
    "giant keys are left out": (b"}\x8a\x09\0\0\0\0\0\0\0\0\1K\x01s.", {}),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_hand_written_value(name: str) -> None:
    data, value = WRITTEN[name]

    assert value_of(data) == value


def test_value_ends_where_the_pickle_ends() -> None:
    assert read_pickle(b"xxN.yy", file="model.bin", start=2).end == 4


def test_collections_are_plain_tables() -> None:
    table = [collections.OrderedDict(a=1), Call(collections.OrderedDict, [["b", 2]]), {3}, torch.Size([4]), collections.Counter("a")]

    assert value_of(pickle.dumps(table, 2)) == [{"a": 1}, {"b": 2}, [3], (4,), {}]


FOREIGN = {
    "global": b"cos\nsystem\n.",
    "instance": b"(S'true'\nios\nsystem\n.",
    "object": b"(cos\nsystem\nS'true'\no.",
    "stack global": b"\x8c\x02os\x8c\x06system\x93.",
    "call": b"cos\nsystem\nVtrue\n\x85R.",
    "new object": b"cos\nsystem\n)\x81.",
    "keywords": b"cos\nsystem\n)}\x92.",
    "build": b"cos\nsystem\n}b.",
    "items": b"cos\nsystem\n)R(K\x01K\x02u(K\x01eK\x01a.",
    "subclass": b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nN)}tR.",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_every_way_to_name_a_function_is_seen_and_inert(name: str) -> None:
    result = read_pickle(FOREIGN[name], file="model.bin")

    assert result.foreign_names == {"os.system"}
    assert isinstance(result.value, Opaque)
    assert result.value.name == "os.system"


@pytest.mark.parametrize("opcode", [b"\x82\x01", b"\x83\x01\0", b"\x84\x01\0\0\0"])
def test_extension_code_is_named(opcode: bytes) -> None:
    assert read_pickle(opcode + b".", file="model.bin").foreign_names == {"copyreg.extension 1"}


def test_name_that_is_no_text_is_shown_escaped() -> None:
    assert read_pickle(b"cos\n\xed\xa0\x80\n.", file="model.bin").foreign_names == {"os.\\ud800"}


BROKEN = "the pickle is broken or cut short at byte"
BAD = {
    "empty": (b"", f"{BROKEN} 0; download it again"),
    "no end": (b"N", f"{BROKEN} 1"),
    "opcode": (b"\x97.", "the pickle has the opcode 0x97, which is none of a checkpoint's at byte 1"),
    "stop at nothing": (b".", f"{BROKEN} 1"),
    "pop of nothing": (b"a.", f"{BROKEN} 1"),
    "mark of nothing": (b"t.", f"{BROKEN} 1"),
    "object of nothing": (b"(o", f"{BROKEN} 2"),
    "tuple of nothing": (b"N\x86.", f"{BROKEN} 2"),
    "memo": (b"h\x05.", f"{BROKEN} 2"),
    "memo index": (b"Np99999999999\n.", BROKEN),
    "odd items": (b"}(Nu.", BROKEN),
    "number cut": (b"J\0\0", BROKEN),
    "line cut": (b"I12", BROKEN),
    "negative length": (b"T\xff\xff\xff\xff.", BROKEN),
    "endless text": (b"X\xff\xff\xff\xff.", BROKEN),
    "text not UTF-8": (b"X\1\0\0\0\xff.", BROKEN),
    "digits": (b"I" + b"9" * 5_000 + b"\n.", BROKEN),
    "no name": (b"NN\x93.", BROKEN),
    "long name": (b"c" + b"m" * 1_001 + b"\nn\n.", "the pickle has a name of more than 1,000 characters"),
    "many names": (b"".join(b"cm\nn%d\n" % number for number in range(1_001)) + b".", "the pickle names more than 1,000 classes"),
    "no arguments": (b"ctorch._utils\n_rebuild_parameter\n)R.", BROKEN),
    "few arguments": (b"ctorch._utils\n_rebuild_tensor_v2\nK\1\x85R.", BROKEN),
    "many arguments": (b"ctorch\nSize\n(" + b"K\1" * 21 + b"tR.", BROKEN),
    "odd pairs": (b"ccollections\nOrderedDict\n](K\1e\x85R.", BROKEN),
    "odd subclass": (b"ctorch._tensor\n_rebuild_from_type_v2\n(NNNtR.", BROKEN),
    "persistent id": (b"NQ.", "the pickle has a persistent id that is no storage"),
    "persistent id of another kind": (b"(Vother\nNNNNtQ.", "the pickle has a persistent id that is no storage"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_pickle_is_refused_in_words(name: str) -> None:
    data, message = BAD[name]

    with pytest.raises(InvalidCheckpointError, match=f"^model.bin: {message}"):
        value_of(data)


def test_pickle_cut_anywhere_is_refused() -> None:
    data = pickle.dumps([*VALUES, *TABLES, collections.OrderedDict])

    for end in range(len(data)):
        with pytest.raises(InvalidCheckpointError):
            value_of(data[:end])


COPIES = b"](" + b"N" * 100_000 + b"eq\0cbuiltins\nset\nq\1" + b"h\1h\0\x85R" * 21 + b"."


@pytest.mark.parametrize("bomb", [b"N0" * 1_000_001 + b".", COPIES], ids=["opcodes", "copies of a list"])
def test_endless_pickle_is_stopped(bomb: bytes) -> None:
    with pytest.raises(InvalidCheckpointError, match="the pickle has more than 2,000,000 steps"):
        value_of(bomb)


def test_deeply_nested_key_is_never_hashed() -> None:
    assert value_of(b"})" + b"\x85" * 300_000 + b"Ns.") == {}
