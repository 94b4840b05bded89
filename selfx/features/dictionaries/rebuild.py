"""What names in a pickle stand for: makers of arrays and of plain values, and no other function.

Each is an object without a settable attribute, so that a file cannot change what the next one
meets. Sizes are checked against the bytes that are there before anything is made of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np


class Refused(Exception):
    """A pickle asks for something that is not data; the message names it."""


class Call:
    """A function that a pickle may call."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]):
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        """What the function returns."""
        return self._function(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise Refused("a change to a function")


class Named(dict):
    """An ordered dict; what torch hangs onto it beside its items is dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


STORAGES: dict[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
"""The type of the numbers in each of torch's storages."""

_FLOATS = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8")


class Storage:
    """A run of numbers; `values` `[n]` may come after those who want them."""

    __slots__ = ("count", "dtype", "values")

    def __init__(self, kind: str, order: str, count: int):
        self.dtype = np.dtype(STORAGES[kind]).newbyteorder(order)
        self.count, self.values = count, np.zeros(0, self.dtype)

    @classmethod
    def of(cls, data: bytes, kind: str, order: str) -> Storage:
        """The storage whose bytes are known."""
        made = cls(kind, order, len(data) // np.dtype(STORAGES[kind]).itemsize)
        made.fill(data)
        return made

    def fill(self, data: bytes) -> None:
        """Takes the bytes that it stands for."""
        if len(data) != self.count * self.dtype.itemsize:
            raise ValueError(f"{len(data)} bytes for {self.count} numbers of {self.dtype}")
        self.values = np.frombuffer(data, self.dtype)

    def __setstate__(self, state: Any) -> None:
        raise Refused("a change to a storage")


class View:
    """A tensor: where in a storage its numbers are."""

    __slots__ = ("offset", "shape", "storage", "strides")

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any):
        self.storage, self.offset = storage, int(offset)
        self.shape, self.strides = _naturals(shape), _naturals(strides)

    def __setstate__(self, state: Any) -> None:
        raise Refused("a change to a tensor")

    def array(self) -> np.ndarray:
        """Its numbers, in an array of their own."""
        source = _a(self.storage, Storage)
        if not math.prod(self.shape):
            return np.zeros(self.shape, source.dtype.newbyteorder("="))
        pairs = list(zip(self.shape, self.strides, strict=True))
        last = self.offset + sum((size - 1) * step for size, step in pairs)
        if not 0 <= self.offset <= last < len(source.values):
            raise ValueError(f"a tensor up to number {last} of {len(source.values)}")
        if math.prod(self.shape) > len(source.values):
            raise ValueError(f"a tensor of shape {self.shape} over {len(source.values)} numbers")
        strides = [step * source.dtype.itemsize for step in self.strides]
        first = source.values[self.offset :]
        view = np.lib.stride_tricks.as_strided(first, self.shape, strides, writeable=False)
        return view.astype(source.dtype.newbyteorder("="))


class Kind:
    """A type of NumPy's numbers, as pickles spell it: its name, then its byte order."""

    __slots__ = ("dtype",)

    def __init__(self, name: Any, *_: Any):
        self.dtype = np.dtype(str(name))
        if self.dtype.kind not in "biufcSU":
            raise Refused(f"an array of {name!r}")

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class Block:
    """A NumPy array: its shape, type and bytes."""

    __slots__ = ("data", "fortran", "kind", "shape")

    def __init__(self, data: Any = b"", kind: Any = None, shape: Any = (), fortran: bool = False):
        self.data, self.kind, self.shape, self.fortran = data, kind, shape, bool(fortran)

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.kind, self.fortran, self.data = state

    def array(self) -> np.ndarray:
        """Its numbers, in an array of their own."""
        dtype, data = _a(self.kind, Kind).dtype, self.data
        if not isinstance(data, bytes):
            raise Refused("an array of objects")
        flat = np.frombuffer(data, dtype)
        made = flat.reshape(_naturals(self.shape), order="F" if self.fortran else "C")
        return made.astype(dtype.newbyteorder("="))


class Number(Block):
    """One number of NumPy's."""

    __slots__ = ()


def settled(value: Any, known: dict[int, Any] | None = None) -> Any:
    """`value` with arrays in the place of views and blocks; what is shared stays shared."""
    known = {} if known is None else known
    if isinstance(value, str | bytes | int | float | complex | bool | None):
        return value
    if id(value) in known:
        return known[id(value)][0]
    known[id(value)] = (None, value)  # what holds itself holds nothing there; kept alive for its id
    known[id(value)] = (_settled(value, known), value)
    return known[id(value)][0]


def _settled(value: Any, known: dict[int, Any]) -> Any:
    match value:
        case Number():
            return value.array().reshape(()).item()
        case View() | Block():
            return value.array()
        case dict():
            return {settled(k, known): settled(v, known) for k, v in value.items()}
        case list() | tuple() | set() | frozenset():
            plain = tuple if isinstance(value, tuple) else type(value)
            return plain(settled(item, known) for item in value)
        case np.ndarray():
            return value
        case Kind():
            return value.dtype.name
    raise Refused(f"an object of {type(value).__name__}")


def _of_block(subtype: Any, *_: Any) -> Block:
    return Block()


def _scalar(kind: Any, data: Any = b"") -> Number:
    return Number(_bytes(data), kind)


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any = "C") -> Block:
    return Block(_bytes(data), kind, shape, order == "F")


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise Refused(f"the encoding {encoding!r}")
    return str(text).encode("latin1")


def _bytes(data: Any) -> bytes:
    return data.encode("latin1") if isinstance(data, str) else bytes(_a(data, bytes | bytearray))


def _as_is(tensor: Any, *_: Any) -> View:
    return _a(tensor, View)


def _a(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise Refused(f"a {type(value).__name__} where it should be a {kind}")
    return value


def _naturals(numbers: Sequence[Any]) -> tuple[int, ...]:
    whole = tuple(int(number) for number in numbers)
    if any(number < 0 for number in whole):
        raise ValueError(f"sizes {whole}")
    return whole


STAND_INS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Call(Named),
    ("torch._utils", "_rebuild_tensor"): Call(View),
    ("torch._utils", "_rebuild_tensor_v2"): Call(View),
    ("torch._utils", "_rebuild_parameter"): Call(_as_is),
    ("torch", "Size"): Call(lambda sizes=(): _naturals(sizes)),
    ("torch", "device"): Call(lambda *parts: ":".join(map(str, parts))),
    **{("torch", name): name for name in (*_FLOATS, "bool")},
    **{
        (f"numpy.{core}.{module}", name): Call(function)
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", _of_block),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): Call(Kind),
    ("_codecs", "encode"): Call(_encode),
    **{
        (module, kind.__name__): Call(kind)
        for module in ("builtins", "__builtin__")
        for kind in (set, frozenset)
    },
}
"""`{(module, name): what it stands for}`: the whole of what a pickle can name, but for storages."""
