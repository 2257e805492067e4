"""Pickles of arrays, read without running what they may hold: only arrays and plain containers are built."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from metarun.tasks import DataError


def _encode(text: str, encoding: str) -> bytes:
    """Bytes as protocol 2 writes them: text in one codec, which is the only one admitted."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


class ArrayUnpickler(pickle.Unpickler):
    """Reads NumPy arrays, numbers, strings and plain containers; refuses any other name without importing it."""

    ADMITTED = frozenset(
        {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy.core.multiarray", "scalar"),
            ("numpy._core.multiarray", "scalar"),
            ("numpy.core.numeric", "_frombuffer"),
            ("numpy._core.numeric", "_frombuffer"),
            ("collections", "OrderedDict"),
            ("builtins", "set"),
            ("builtins", "frozenset"),
            ("builtins", "bytearray"),
            ("__builtin__", "set"),  # Python 2's name for builtins, which protocols 0 to 2 use
            ("__builtin__", "frozenset"),
            ("__builtin__", "bytearray"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _encode
        if (module, name) not in self.ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        # Pickles of NumPy 1 name numpy.core, which NumPy 2 keeps only with a warning.
        return super().find_class(module.replace("numpy.core.", "numpy._core."), name)


_DAMAGE = (ValueError, TypeError, KeyError, IndexError, AttributeError)  # what a damaged pickle may raise


def load_arrays(path: Path) -> Any:
    """The contents of a pickle of arrays and plain containers.

    Raises:
        DataError: it holds anything else (the message names it; it is not run), or is damaged.
    """
    try:
        with open(path, "rb") as file:
            return ArrayUnpickler(file, encoding="latin1").load()
    except (OSError, pickle.UnpicklingError, EOFError, *_DAMAGE) as error:
        raise DataError(
            f"{path} is refused: {error}. Only NumPy arrays and plain containers are read from a pickle"
        ) from error
