"""Arrays in `.npy`, and pickles (`.pkl` of model zoos, objects in `.npy`) without running code. For `safe_io` only."""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from typing import IO, Any, BinaryIO

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


def load_npy(stream: IO[bytes], size: int) -> np.ndarray:
    """The array of a .npy stream of `size` bytes, whose header must not claim more; no Python objects."""
    shape, fortran_order, dtype = _read_npy_header(stream)
    if dtype.hasobject:
        raise ValueError("an array of Python objects")
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count * max(dtype.itemsize, 1) > size:
        raise ValueError(f"a header that claims shape {shape} of {dtype} in {size} bytes")
    content = bytearray(stream.read(count * dtype.itemsize))
    return np.frombuffer(content, dtype, count).reshape(shape, order="F" if fortran_order else "C")


def load_pickled_npy(stream: BinaryIO) -> Any:
    """The one object that numpy.save pickled into a .npy stream; plain data and numeric arrays, as in
    `load_plain_pickle` and `checked_plain`."""
    shape, _, dtype = _read_npy_header(stream)
    if not dtype.hasobject:
        raise ValueError(f"an array of {dtype}, not one Python object")
    array = load_plain_pickle(stream)
    if not (type(array) is np.ndarray and array.dtype == object and array.shape == shape == ()):
        raise ValueError(f"an array of shape {shape} of Python objects, not one object")
    return checked_plain(array.item())


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


def _read_npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the first axis runs fastest, and type."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format version {version}")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read_header(stream)


def _empty_array(array_type: type, shape: tuple, type_code: Any) -> Any:
    # The content follows as state, whose size numpy compares with the shape: nothing large is allocated by a claim.
    if array_type is not _ArrayType or tuple(shape) != (0,):
        raise pickle.UnpicklingError("an array that does not start empty")
    return _reconstruct(np.ndarray, (0,), type_code)


def _data_type(code: Any, *_: Any) -> np.dtype:
    # A copy, as numpy's pickles ask for: the state that follows sets its order of bytes.
    dtype = np.dtype(code, copy=True) if isinstance(code, str) else None
    if dtype is None or dtype.names or dtype.subdtype:
        raise pickle.UnpicklingError("a data type of several parts")
    return dtype


def _is_own_state(dtype: np.dtype, state: Any) -> bool:
    """Whether `state` changes nothing of `dtype` but the order of bytes: numpy believes any sizes and flags."""
    own = (3, None, None, None, dtype.itemsize, dtype.alignment, dtype.flags)
    if not isinstance(state, tuple) or len(state) != 8 or state[1] not in ("<", ">", "|", "="):
        return False
    given = [state[0], *state[2:]]
    return all(found == true or (found == -1 and k in (4, 5)) for k, (found, true) in enumerate(zip(given, own)))


def _is_array_state(state: Any) -> bool:
    """Whether `state` holds as many objects as it claims; numpy compares sizes of bytes alone."""
    if not isinstance(state, tuple) or len(state) != 5:
        return False
    _, shape, dtype, _, content = state
    if not isinstance(dtype, np.dtype) or not isinstance(shape, tuple):
        return False
    if not dtype.hasobject:
        return isinstance(content, (bytes, str, bytearray))
    return isinstance(content, list) and min(shape, default=0) >= 0 and math.prod(shape) == len(content)


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
    ("numpy", "dtype"): _data_type,
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
        built, state = self.stack[-2:]
        if not isinstance(built, (np.ndarray, np.dtype)):
            raise pickle.UnpicklingError(f"state for an object of type {type(built).__name__}")
        if not (_is_own_state(built, state) if isinstance(built, np.dtype) else _is_array_state(state)):
            raise pickle.UnpicklingError(f"a false state for a {type(built).__name__}")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build
