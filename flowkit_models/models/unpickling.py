"""Unpickling without calls: the instructions of a pickle on a stack of our own, in which a tensor is a description.

Nothing that a pickle names is called or imported, and the work is linear in the number of its instructions, whatever
they say. All protocols of pickle are one here.
"""

import math
import pickletools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import IO, Any

import torch
from torch import Tensor

MOST_SIDES = 8
"""Most dimensions of a tensor."""

MOST_INSTRUCTIONS = 1_000_000
"""Of a pickle. A training state of a thousand tensors has some fifty thousand."""

_STORAGE = re.compile(r"torch(?:\.cuda|\.storage)?\.(\w+)Storage")
_STORED = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Untyped": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}
_DENSE = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"}
_WRAPPED = {"torch._utils._rebuild_parameter": 0, "torch._utils._rebuild_parameter_with_state": 0}
_TYPED = "torch._tensor._rebuild_from_type_v2"
_ODD = {
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse",
    "torch._utils._rebuild_qtensor": "quantised",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_meta_tensor_no_storage": "without values",
}
_MAPPINGS = {"collections.OrderedDict", "collections.Counter", "collections.defaultdict"}
_HARMLESS = _MAPPINGS | {
    *("torch.Size", "torch.device", "torch.Tensor", "torch.nn.parameter.Parameter", "torch.serialization._get_layout"),
    *("torch.utils.hooks.BackwardHook", "_codecs.encode", "builtins.set", "builtins.frozenset", "builtins.bytearray"),
    *("builtins.complex", "builtins.dict", "builtins.list", "builtins.int", "__builtin__.set", "__builtin__.frozenset"),
    *("__builtin__.bytearray", "__builtin__.complex", "__builtin__.dict", "__builtin__.list", "__builtin__.int"),
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        shape: its sizes.
        dtype: its type.
        read: reads it.
        flaw: what makes it useless; "" as a rule.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]
    flaw: str = ""


@dataclass(frozen=True)
class _Named:
    """A function or class that a pickle names."""

    name: str


@dataclass(frozen=True)
class Storage:
    """Bytes in a file that tensors share: its name, type and number of elements."""

    key: str
    dtype: torch.dtype
    count: int


class ForeignError(Exception):
    """A pickle names what no checkpoint needs."""


_OTHER = object()
"""What a pickle holds besides containers, numbers, strings and tensors."""

_MARK = object()


class RefusedError(Exception):
    """A reason not to read a file that needs no further words."""


class Machine:
    """Follows the instructions of pickles. `find` gives a storage's number of bytes, and what reads it."""

    def __init__(self, find: Callable[[Storage], tuple[int, Callable[[], bytearray]]]) -> None:
        self.storages: dict[Storage, None] = {}
        self._find = find
        self._kept: dict[str, bytearray] = {}
        self._instructions = 0
        self._copied = 0

    def run(self, file: IO[bytes]) -> Any:
        """The object of the next pickle in a file."""
        stack: list[Any] = []
        memo: dict[Any, Any] = {}
        for opcode, value, _ in pickletools.genops(file):
            self._instructions += 1
            if self._instructions > MOST_INSTRUCTIONS:
                raise RefusedError(
                    f"refused, its index is longer than {MOST_INSTRUCTIONS} steps: save the weights alone"
                )
            if opcode.name == "STOP":
                return stack.pop()
            if opcode.name in _PUT:
                memo[len(memo) if value is None else value] = stack[-1]
            elif opcode.name in _GET:
                stack.append(memo[value])
            else:
                self._follow(opcode.name, value, stack)
        raise EOFError("the pickle has no end")

    def _follow(self, name: str, value: Any, stack: list[Any]) -> None:
        if name in _PUSHED:
            stack.append(_PUSHED[name]())
        elif name in _GATHERED:
            stack.append(_GATHERED[name](_marked(stack)))
        elif name in _ADDED:
            parts = _marked(stack)
            _ADDED[name](stack[-1], parts)
        elif name in _ADDED_ONE:
            plural, count = _ADDED_ONE[name]
            parts = stack[-count:]
            del stack[-count:]
            _ADDED[plural](stack[-1], parts)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name in _DROPPED:
            del stack[len(stack) - _DROPPED[name] :]
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            self._name_or_call(name, value, stack)

    def _name_or_call(self, name: str, value: Any, stack: list[Any]) -> None:
        match name:
            case "GLOBAL":
                stack.append(_named(value.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                last = stack.pop()
                stack.append(_named(f"{stack.pop()}.{last}"))
            case "INST":
                _marked(stack)
                _named(value.replace(" ", ".", 1))
                stack.append(_OTHER)
            case "REDUCE" | "NEWOBJ":
                arguments = stack.pop()
                stack.append(self._made(stack.pop(), arguments))
            case "NEWOBJ_EX":
                stack[-3:] = [_OTHER]
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case _ if value is not None and name not in _UNKNOWN:
                stack.append(value)  # a number, a string or bytes
            case _:
                raise RefusedError(f"not a checkpoint: its pickle has the instruction {name}")

    def _storage(self, identity: Any) -> Any:
        kind, named, key, _, count = identity[:5]
        found = _STORAGE.fullmatch(named.name)
        if kind != "storage" or found is None or not isinstance(count, int) or count < 0:
            raise ValueError("a storage is described by something else")
        if found[1] not in _STORED or any(part is not None for part in identity[5:]):
            return _OTHER
        storage = Storage(str(key), _STORED[found[1]], count)
        self.storages[storage] = None
        return storage

    def _made(self, function: Any, arguments: Any) -> Any:
        """What a call would give, without the call."""
        if not isinstance(function, _Named) or not isinstance(arguments, tuple):
            raise ValueError("a call of what is no function")
        while function.name == _TYPED:
            function, arguments = arguments[0], arguments[2]
            if not isinstance(function, _Named) or not isinstance(arguments, tuple):
                raise ValueError("a call of what is no function")
        name = function.name
        if name in _DENSE and isinstance(arguments[0], Storage):
            dtype = arguments[6].name.removeprefix("torch.") if name.endswith("_v3") else None
            storage, offset, shape, stride = arguments[:4]
            return self._tensor(storage, offset, shape, stride, None if dtype is None else getattr(torch, dtype))
        if name in _WRAPPED:
            return arguments[_WRAPPED[name]]
        if name in _ODD or name in _DENSE:
            return _odd(_ODD.get(name, "quantised"))
        if name in _MAPPINGS:
            pairs = arguments[-1] if arguments else {}
            self._copied += len(pairs) if isinstance(pairs, list | dict) else 0
            if self._copied > MOST_INSTRUCTIONS:
                raise RefusedError("refused, it copies its content again and again: save the weights alone")
            flat = pairs.items() if isinstance(pairs, dict) else pairs if isinstance(pairs, list) else ()
            return _filled({}, [part for pair in flat for part in pair])
        return _OTHER

    def _tensor(self, storage: Storage, offset: Any, shape: Any, stride: Any, dtype: torch.dtype | None) -> Any:
        numbers = (offset, *shape, *stride)
        if (
            len(shape) != len(stride)
            or any(type(n) is not int or not 0 <= n < 2**60 for n in numbers)
            or len(shape) > MOST_SIDES
        ):
            raise ValueError("a tensor is described by something else")
        nbytes, read = self._find(storage)
        dtype = dtype or storage.dtype
        last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
        inside = not math.prod(shape) or (last + 1) * dtype.itemsize <= min(
            nbytes, storage.count * storage.dtype.itemsize
        )
        if not inside or math.prod(shape) * dtype.itemsize > nbytes:
            return StoredTensor(shape, dtype, _nothing, "larger than what the file holds of it")

        def values() -> Tensor:
            if storage.key not in self._kept:
                self._kept[storage.key] = read()
            content = self._kept[storage.key]
            flat = torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
            whole = flat[: len(content) // dtype.itemsize * dtype.itemsize].view(dtype)
            return whole.as_strided(shape, stride, offset)

        return StoredTensor(shape, dtype, values)


def _marked(stack: list[Any]) -> list[Any]:
    """Takes what lies above the last mark, and the mark."""
    parts = []
    while (part := stack.pop()) is not _MARK:
        parts.append(part)
    return parts[::-1]


def _filled(mapping: Any, parts: Iterable[Any]) -> Any:
    """Puts keys and values, which alternate, into a mapping. Keys become strings: these can't be made to collide."""
    keys = iter(parts)
    for key, value in zip(keys, keys, strict=True):
        if isinstance(mapping, dict):
            mapping[key if isinstance(key, str) else str(key) if isinstance(key, int) else ""] = value
    return mapping


_PUT = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_GET = ("GET", "BINGET", "LONG_BINGET")
_PUSHED: dict[str, Callable[[], Any]] = {
    "MARK": lambda: _MARK,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": lambda: _OTHER,
}
_GATHERED: dict[str, Callable[[list[Any]], Any]] = {
    "LIST": list,
    "TUPLE": tuple,
    "DICT": lambda parts: _filled({}, parts),
    "FROZENSET": lambda _: _OTHER,
    "OBJ": lambda _: _OTHER,
}
_ADDED: dict[str, Callable[[Any, list[Any]], Any]] = {
    "APPENDS": lambda target, parts: target.extend(parts),
    "SETITEMS": _filled,
    "ADDITEMS": lambda target, parts: None,
    "POP_MARK": lambda target, parts: None,
}
_ADDED_ONE = {"APPEND": ("APPENDS", 1), "SETITEM": ("SETITEMS", 2)}
_DROPPED = {"PROTO": 0, "FRAME": 0, "POP": 1, "BUILD": 1}
_UNKNOWN = ("PERSID", "EXT1", "EXT2", "EXT4")


def _named(name: str) -> _Named:
    known = name in _HARMLESS or name in _DENSE or name in _WRAPPED or name in _ODD or name == _TYPED
    dtype = isinstance(vars(torch).get(name.removeprefix("torch.")), torch.dtype | torch.layout | torch.qscheme)
    if not (known or dtype or _STORAGE.fullmatch(name)):
        raise ForeignError(name[:100])
    return _Named(name)


def _odd(flaw: str) -> StoredTensor:
    return StoredTensor((), torch.float32, _nothing, flaw)


def _nothing() -> Tensor:
    raise ValueError("it has no values")
