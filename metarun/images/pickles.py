"""Pickles of arrays, read without running what they may hold: only arrays and plain containers are built.

NumPy's own `__setstate__` methods trust their arguments, so that a crafted pickle corrupts memory. Here dtypes and
arrays are rebuilt from values that are checked, and no method of NumPy sees a state.
"""

from __future__ import annotations

import math
import pickle
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from metarun.images.files import disguise, open_regular
from metarun.tasks import DataError

PLAIN = re.compile(r"[biufc]\d{1,2}|[SU]\d{1,6}")  # booleans, numbers, bytes and text of a fixed length

ORDERS: tuple[Literal["<", ">"], ...] = ("<", ">")


class _Frozen(type):
    """A class that a pickle cannot change, for BUILD sets attributes of whatever it is given."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise pickle.UnpicklingError(f"it sets {cls.__name__}.{name}")


class _Encode(metaclass=_Frozen):
    """`_codecs.encode`: bytes as protocol 2 writes them, text in one codec, which is the only one admitted."""

    def __new__(cls, text: str, encoding: str) -> Any:
        if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
            raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
        return text.encode("latin1")


class _Bytearray(metaclass=_Frozen):
    """`bytearray`, of bytes only: of a number it would take as much memory."""

    def __new__(cls, data: Any = b"", encoding: str = "latin-1") -> Any:
        return bytearray(_raw(data) if encoding in ("latin1", "latin-1") else b"")


class _Bytes(metaclass=_Frozen):
    """`bytes()`: none, as protocols 0 to 2 write them."""

    def __new__(cls) -> Any:
        return b""


class _Dtype(metaclass=_Frozen):
    """`numpy.dtype`: keeps what the pickle says, and makes a plain dtype of it when one is needed."""

    def __init__(self, spec: Any, *_: Any) -> None:
        self.said: tuple[Any, Any] = (spec, None)

    def __setstate__(self, state: Any) -> None:
        self.said = (self.said[0], state)

    def plain(self) -> np.dtype[Any]:
        """The dtype, if its state is that of a plain one.

        Raises:
            pickle.UnpicklingError: it is not.
        """
        spec, state = self.said
        if isinstance(spec, str) and PLAIN.fullmatch(spec):
            for order in ORDERS:
                dtype = np.dtype(spec).newbyteorder(order)
                if state is None or state == dtype.__reduce__()[2]:
                    return dtype
        raise pickle.UnpicklingError(f"it asks for an array of dtype {str(spec)[:40]!r}, which is no plain one")


class _NdarrayName(metaclass=_Frozen):
    """`numpy.ndarray`, as an argument of `_reconstruct`; it makes nothing itself."""

    def __new__(cls, *_: Any) -> Any:
        raise pickle.UnpicklingError("it makes an array without contents")


class _Reconstruct(metaclass=_Frozen):
    """`_reconstruct(numpy.ndarray, (0,), b"b")`: an empty array, which takes its contents by `__setstate__`."""

    def __new__(cls, *_: Any) -> Any:
        return np.empty(0, np.int8).view(_Array)


class _Array(np.ndarray, metaclass=_Frozen):
    """An array that a pickle fills, with what has been checked."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        plain, data = _checked(raw, dtype, shape)
        checked: Any = (1, shape, plain, bool(fortran), data)
        super().__setstate__(checked)


class _FromBuffer(metaclass=_Frozen):
    """`_frombuffer(buffer, dtype, shape, order)` of protocol 5."""

    def __new__(cls, raw: Any, dtype: Any, shape: Any, order: Any) -> Any:
        return _array(raw, dtype, shape, "F" if order == "F" else "C")


class _Scalar(metaclass=_Frozen):
    """`scalar(dtype, bytes)`."""

    def __new__(cls, dtype: Any, raw: Any = b"") -> Any:
        return _array(raw, dtype, (1,), "C")[0]


def _array(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    plain, data = _checked(raw, dtype, shape)
    return np.ndarray(shape, plain, data, order=order)


def _checked(raw: Any, dtype: Any, shape: Any) -> tuple[np.dtype[Any], bytes]:
    """Dtype and bytes of an array.

    Raises:
        pickle.UnpicklingError: the dtype is not plain, or the bytes are not as many as the shape says.
    """
    if not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError("it makes an array of no dtype")
    plain, data = dtype.plain(), _raw(raw)
    sizes = isinstance(shape, tuple) and len(shape) <= 32 and all(type(n) is int and n >= 0 for n in shape)
    if not sizes or not plain.itemsize or math.prod(shape) * plain.itemsize != len(data):
        raise pickle.UnpicklingError(f"it makes an array of shape {str(shape)[:60]} of {len(data)} bytes")
    return plain, data


def _raw(data: Any) -> bytes:
    if isinstance(data, str):
        return data.encode("latin1")  # Python 2's strings are bytes
    if isinstance(data, bytes | bytearray):
        return bytes(data)
    raise pickle.UnpicklingError(f"it takes a {type(data).__name__} for bytes")


class ArrayUnpickler(pickle.Unpickler):
    """Reads NumPy arrays, numbers, strings and plain containers; refuses any other name without importing it."""

    # Pickles of NumPy 1 name numpy.core; __builtin__ is Python 2's name for builtins, which protocols 0 to 2 use.
    ADMITTED: dict[tuple[str, str], Any] = {
        ("_codecs", "encode"): _Encode,
        ("numpy", "ndarray"): _NdarrayName,
        ("numpy", "dtype"): _Dtype,
        **{(f"numpy.{core}.multiarray", "_reconstruct"): _Reconstruct for core in ("core", "_core")},
        **{(f"numpy.{core}.multiarray", "scalar"): _Scalar for core in ("core", "_core")},
        **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer for core in ("core", "_core")},
        **{(builtins, "set"): set for builtins in ("builtins", "__builtin__")},
        **{(builtins, "frozenset"): frozenset for builtins in ("builtins", "__builtin__")},
        **{(builtins, "bytearray"): _Bytearray for builtins in ("builtins", "__builtin__")},
        ("__builtin__", "bytes"): _Bytes,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return super().find_class(module, name)
        if (module, name) not in self.ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self.ADMITTED[module, name]


# What a damaged pickle may raise.
_DAMAGE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, MemoryError, RecursionError, EOFError)


def load_arrays(path: Path) -> Any:
    """The contents of a pickle of arrays and plain containers.

    Raises:
        DataError: it holds anything else (the message names it; it is not run), or is damaged.
    """
    with open_regular(path) as file:
        if what := disguise(file):
            raise DataError(f"{path} is refused: it is {what}, not a pickle. Download it again")
        try:
            return ArrayUnpickler(file, encoding="latin1").load()
        except (OSError, pickle.UnpicklingError, *_DAMAGE) as error:
            raise DataError(
                f"{path} is refused: {str(error) or type(error).__name__}. "
                f"Only NumPy arrays and plain containers are read from a pickle"
            ) from error
