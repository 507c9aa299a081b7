"""Legacy pickles (`.pkl` of the Detectron2 and Caffe2 model zoos) without running code. Used by `safe_io` only."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from typing import Any, BinaryIO

import numpy as np
import scipy.sparse
from numpy._core.multiarray import _reconstruct, scalar

_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")


def load_plain_pickle(stream: BinaryIO) -> Any:
    """What a pickle holds, where that is numbers, strings, lists, tuples, sets, dicts and numpy arrays only.

    Raises pickle.UnpicklingError for any other object, and whatever a damaged file makes pickle and numpy raise.
    """
    return _PlainUnpickler(stream, encoding="latin1").load()


def checked_plain(value: Any) -> Any:
    """`value`, when it holds nothing but plain data and numeric arrays; raises ValueError otherwise."""
    waiting, seen = [value], set()
    while waiting:
        item = waiting.pop()
        if (
            id(item) in seen
            or item is None
            or isinstance(item, (bool, int, float, complex, str, bytes, np.number, np.bool_))
        ):
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set, frozenset)) or (type(item) is np.ndarray and item.dtype == object):
            waiting += list(item.flat if isinstance(item, np.ndarray) else item)
        elif not scipy.sparse.issparse(item) and (type(item) is not np.ndarray or item.dtype.hasobject):
            raise ValueError(f"an object of type {type(item).__name__}")
    return value


def _empty_array(array_type: type, shape: tuple, type_code: Any) -> Any:
    # The content follows as state, whose size numpy compares with the shape: nothing large is allocated by a claim.
    if array_type is not _ArrayType or tuple(shape) != (0,):
        raise pickle.UnpicklingError("an array that does not start empty")
    return _reconstruct(np.ndarray, (0,), type_code)


def _array_of_buffer(buffer: Any, dtype: np.dtype, shape: tuple, order: Any) -> np.ndarray:
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order).copy()


def _latin1_bytes(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


class _ArrayType:
    """Stands for `numpy.ndarray` in the file, so that no array can be made by calling it."""

    def __new__(cls, *args: Any) -> _ArrayType:
        raise pickle.UnpicklingError("a direct call of numpy.ndarray")


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1_bytes,
    **{(module, "_reconstruct"): _empty_array for module in _MULTIARRAY},
    **{(module, "scalar"): scalar for module in _MULTIARRAY},
    **{(module, "_frombuffer"): _array_of_buffer for module in _NUMERIC},
}


# The Python form of the unpickler: the C form allocates whatever memo index a file names, up to 64 GB.
_Unpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _PlainUnpickler(_Unpickler):
    dispatch = dict(_Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"the object {module}.{name}")
        return _KNOWN[module, name]

    def load_build(self) -> None:
        if not isinstance(self.stack[-2], (np.ndarray, np.dtype)):
            raise pickle.UnpicklingError(f"state for an object of type {type(self.stack[-2]).__name__}")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build
