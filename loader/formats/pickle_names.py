"""What the names in a PyTorch pickle stand for: the few calls that make tensors and dictionaries, each as an inert record.

Of all that a pickle may name, only what stands in these tables has a meaning; the rest stays an `Opaque`. Nothing is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..dtypes import TORCH_NAMES


@dataclass(slots=True, eq=False)
class Opaque:
    """Something that is not looked into: the class or function `name`, or what calling it would have made."""

    name: str


@dataclass(slots=True, eq=False)
class Storage:
    """A persistent id of PyTorch: a run of `numel` elements, kept under `key` outside the pickle. Nothing is checked yet."""

    kind: str
    key: object
    numel: object
    view: object = None


@dataclass(slots=True, eq=False)
class TensorRecord:
    """The arguments from which PyTorch would rebuild a tensor. Nothing is checked yet."""

    storage: object
    offset: object
    shape: object
    stride: object
    dtype: object = None
    flags: object = None


# The classes of storages, by the element type that each gives its tensors; an untyped storage counts bytes.
STORAGE_DTYPES: dict[str, str] = {
    f"torch.{where}{kind}Storage": dtype
    for where in ("", "cuda.")
    for kind, dtype in {
        "BFloat16": "BF16",
        "Bool": "BOOL",
        "Byte": "U8",
        "Char": "I8",
        "ComplexFloat": "C64",
        "Double": "F64",
        "Float": "F32",
        "Half": "F16",
        "Int": "I32",
        "Long": "I64",
        "Short": "I16",
    }.items()
}
UNTYPED_STORAGES = frozenset({"torch.storage.UntypedStorage", "torch.UntypedStorage", "torch.storage._UntypedStorage"})

# Tensors that have no run of plain bytes, and what they are.
UNREADABLE_TENSORS: dict[str, str] = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_qtensor": "a tensor quantized by PyTorch",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor on the meta device, without values",
    "torch._utils._rebuild_wrapper_subclass": "a wrapped tensor",
    "torch._utils._rebuild_device_tensor_from_numpy": "a tensor inside a NumPy array",
}

MAX_ARGUMENTS = 20  # of a call in these tables; a call copies them
_MAX_KEY = 2**63


def set_item(target: object, key: object, value: object) -> None:
    """Put `value` into `target` if that is a dictionary and `key` a plain name or number; else leave it out.

    Other keys are a trap: hashing a deep tuple overflows C's stack, and giant integers that share a hash are easily made.
    """
    if type(target) is dict and (type(key) is str or (type(key) is int and -_MAX_KEY <= key < _MAX_KEY)):
        target[key] = value


def _mapping_of_pairs(*args: object) -> dict[object, object]:
    result: dict[object, object] = {}
    for pair in _elements(*args):
        if not isinstance(pair, (list, tuple)):
            raise ValueError
        key, value = pair
        set_item(result, key, value)
    return result


def _elements(*args: object) -> list[object] | tuple[object, ...]:
    return args[0] if args and isinstance(args[0], (list, tuple)) else []


def _empty_mapping(*_: object) -> dict[object, object]:
    return {}


def _first(*args: object) -> object:
    return args[0]


def _tensor(*args: object) -> TensorRecord:
    storage, offset, shape, stride = args[:4]
    return TensorRecord(storage, offset, shape, stride, flags=args[6] if len(args) > 6 else None)


def _tensor_with_dtype(*args: object) -> TensorRecord:
    storage, offset, shape, stride, _, _, dtype = args[:7]
    return TensorRecord(storage, offset, shape, stride, dtype, flags=args[7] if len(args) > 7 else None)


def _tensor_of_class(*args: object) -> object:
    """A tensor with attributes or of a subclass: (function, class, the function's arguments, attributes)."""
    function, _, inner = args[:3]
    if not isinstance(function, Opaque) or not isinstance(inner, tuple) or len(inner) > MAX_ARGUMENTS:
        raise ValueError
    make = _TENSORS.get(function.name)
    return make(*inner) if make else Opaque(function.name)


_TENSORS: dict[str, Callable[..., object]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_with_dtype,
}
_BUILTINS = ("builtins", "__builtin__")  # Python 3's name and Python 2's

# What calling a name makes. Too few or wrong arguments raise LookupError or ValueError.
CALLS: dict[str, Callable[..., object]] = {
    **_TENSORS,
    "torch._tensor._rebuild_from_type_v2": _tensor_of_class,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
    "torch.nn.parameter.Parameter": _first,
    "torch.Size": _elements,
    "collections.OrderedDict": _mapping_of_pairs,
    "collections.defaultdict": _empty_mapping,
    "collections.Counter": _empty_mapping,
    **{f"{module}.{kind}": _elements for module in _BUILTINS for kind in ("set", "frozenset", "list", "tuple")},
}

# Names that make nothing but data; any other is worth a warning.
HARMLESS: frozenset[str] = frozenset(
    [
        *CALLS,
        *STORAGE_DTYPES,
        *UNTYPED_STORAGES,
        *UNREADABLE_TENSORS,
        *(f"torch.{name}" for name in (*TORCH_NAMES, "complex32", "complex128", "qint8", "qint32", "quint8")),
        *(f"torch.{kind}Storage" for kind in ("ComplexDouble", "QInt8", "QInt32", "QUInt8", "QUInt4x2", "QUInt2x4")),
        *("torch.Tensor", "torch.device", "torch.serialization._get_layout", "torch.storage.TypedStorage", "_codecs.encode"),
        *(f"{module}.{kind}" for module in _BUILTINS for kind in ("bytearray", "complex", "dict", "int", "float", "bool")),
    ]
)
