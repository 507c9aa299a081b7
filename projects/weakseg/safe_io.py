"""The only door for files from outside: restricted readers with size limits, atomic writers, names kept in a folder.

Every reader raises FileNotFoundError or ValueError with one sentence: what was expected, where, what to do. None runs
code from the file. Limits are checked before memory is allocated; `max_...` arguments raise them.
"""

from __future__ import annotations

import json
import math
import os
import re
import uuid
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO, Literal

import numpy as np
import scipy.io
import torch
import yaml
from numpy._core.multiarray import _reconstruct, scalar
from PIL import Image, ImageOps
from safetensors.torch import load_file as load_safetensors

from weakseg._opencv_storage import load_opencv_storage
from weakseg._restricted_pickle import checked_plain, load_npy, load_pickled_npy, load_plain_pickle
from weakseg._restricted_xml import read_xml as read_xml

MAX_TEXT_BYTES = 2 << 30
MAX_ARRAY_BYTES = 4 << 30
MAX_IMAGE_PIXELS = 89_000_000

_IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
_EXIF_ORIENTATION = 0x0112
_RESERVED_NAME = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_DTYPES = [np.dtype(code) for code in "?bhilqBHILQefdFD"]
_NUMPY_IN_CHECKPOINTS: list[Any] = [
    (scalar, "numpy.core.multiarray.scalar"),
    (scalar, "numpy._core.multiarray.scalar"),
    (_reconstruct, "numpy.core.multiarray._reconstruct"),
    (_reconstruct, "numpy._core.multiarray._reconstruct"),
    np.ndarray,
    np.dtype,
    *{type(dtype) for dtype in _DTYPES},
]


def read_json(path: str | Path, *, max_bytes: int = MAX_TEXT_BYTES) -> Any:
    """The content of a JSON file in UTF-8."""
    with _opened(path, max_bytes, "a JSON file") as stream, _readable(path, "JSON"):
        return json.load(stream)


def read_yaml(path: str | Path, *, max_bytes: int = 1 << 20) -> Any:
    """The content of a YAML file; tags that would make Python objects are refused."""
    with _opened(path, max_bytes, "a YAML file") as stream, _readable(path, "YAML without Python tags"):
        return yaml.safe_load(stream)


def read_image(path: str | Path, format: str = "RGB", *, max_pixels: int = MAX_IMAGE_PIXELS) -> np.ndarray:
    """A photo as uint8: (H, W, 3) for `format` "RGB" or "BGR", (H, W) for "L". The EXIF orientation is applied, CMYK is
    converted, transparency dropped; of 16 bits the upper 8 are kept."""
    if format not in ("RGB", "BGR", "L"):
        raise ValueError(
            f"expected an image format of RGB, BGR or L; found {format!r}. Set INPUT.FORMAT to one of them."
        )
    with _opened_image(path, max_pixels) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
        if image.mode == "F":
            raise ValueError("32-bit floating point pixels")
        array = np.array(image.convert("L" if format == "L" else "RGB"))
    return np.ascontiguousarray(array[..., ::-1]) if format == "BGR" else array


def read_image_size(path: str | Path, *, max_pixels: int = MAX_IMAGE_PIXELS) -> tuple[int, int]:
    """(H, W) of a photo, EXIF orientation applied, from its header alone."""
    with _opened_image(path, max_pixels, decode=False) as image:
        turned = image.getexif().get(_EXIF_ORIENTATION, 1) >= 5
        return (image.width, image.height) if turned else (image.height, image.width)


def read_label_png(path: str | Path, *, max_pixels: int = MAX_IMAGE_PIXELS) -> np.ndarray:
    """A label map as stored: (H, W) palette indices or grey values (uint8, 16-bit: uint16 or int32), or (H, W, 3)."""
    with _opened_image(path, max_pixels) as image:
        return np.array(image).astype(np.uint8) if image.mode == "1" else np.array(image)


def read_npy(path: str | Path, *, max_bytes: int = MAX_ARRAY_BYTES) -> np.ndarray:
    """The array of a .npy file. Arrays of Python objects are refused."""
    with _opened(path, max_bytes, "a .npy file") as stream, _readable(path, "a numeric .npy array"):
        return load_npy(stream, os.fstat(stream.fileno()).st_size)


def read_pickled_npy(path: str | Path, *, max_bytes: int = MAX_ARRAY_BYTES) -> Any:
    """The one object in a .npy file that numpy.save had to pickle, such as a dict of arrays: plain data and numeric
    arrays, whose pickle is read without running code."""
    with _opened(path, max_bytes, "a .npy file") as stream, _readable(path, "a .npy file of one object of plain data"):
        return load_pickled_npy(stream)


def read_npz(path: str | Path, *, max_bytes: int = MAX_ARRAY_BYTES) -> dict[str, np.ndarray]:
    """The arrays of a .npz file by name. Refused: arrays of Python objects, and more than `max_bytes` unpacked."""
    with _opened(path, max_bytes, "a .npz file") as stream, _readable(path, "an .npz archive of numeric arrays"):
        with zipfile.ZipFile(stream) as archive:
            _check_unpacked_size(sum(member.file_size for member in archive.infolist()), max_bytes)
            arrays = {}
            for member in archive.infolist():
                with archive.open(member) as part:
                    arrays[member.filename.removesuffix(".npy")] = load_npy(part, member.file_size)
            return arrays


def read_mat(path: str | Path, *, max_bytes: int = MAX_ARRAY_BYTES) -> dict[str, Any]:
    """The variables of a MATLAB file (version 5 to 7) as plain data: structures as dicts, cells as lists, the rest as
    numeric arrays (also sparse) and strings; sides of 1 are squeezed. Function handles and objects are refused."""
    with _opened(path, max_bytes, "a MATLAB file") as stream, _readable(path, "a MATLAB file saved with -v7 or before"):
        _check_mat_size(stream, max_bytes)
        stream.seek(0)
        variables = scipy.io.loadmat(stream, simplify_cells=True)
        return {name: checked_plain(value) for name, value in variables.items() if not name.startswith("__")}


def read_yml_gz(path: str | Path, *, max_bytes: int = 1 << 29) -> dict[str, Any]:
    """The numbers in a gzipped YAML of OpenCV's FileStorage by node: mappings as dicts, sequences as arrays, nested
    sequences as lists of arrays. `max_bytes` limits the unpacked text."""
    with _opened(path, max_bytes, "a .yml.gz file") as stream, _readable(path, "gzipped YAML of OpenCV's FileStorage"):
        return load_opencv_storage(stream, max_bytes)


def read_weights(path: str | Path) -> dict[str, Any]:
    """A checkpoint as a dict of CPU tensors and plain data (dicts, lists, strings, numbers, numpy arrays).

    .safetensors; .pth and .pt through torch's restricted reader; .pkl (numpy arrays, which become tensors). A file that
    holds any other object is refused.
    """
    path = Path(path)
    with _opened(path, None, "a checkpoint") as stream, _readable(path, "a checkpoint of tensors and plain data"):
        if path.suffix == ".safetensors":
            return load_safetensors(path)
        if path.suffix == ".pkl":
            weights = _tensors(checked_plain(load_plain_pickle(stream)))
        elif path.suffix in (".pth", ".pt"):
            if zipfile.is_zipfile(stream):
                with zipfile.ZipFile(stream) as archive:
                    # torch stores without compression, so what is much larger unpacked is no checkpoint of torch.
                    unpacked = sum(member.file_size for member in archive.infolist())
                    _check_unpacked_size(unpacked, 2 * os.fstat(stream.fileno()).st_size)
            stream.seek(0)
            with torch.serialization.safe_globals(_NUMPY_IN_CHECKPOINTS):
                weights = torch.load(stream, map_location="cpu", weights_only=True)
        else:
            raise ValueError(f"the suffix {path.suffix!r}, not .safetensors, .pth, .pt or .pkl")
        if not isinstance(weights, dict):
            raise ValueError(f"a {type(weights).__name__}, not a dict")
        return weights


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yields the path of a temporary file in the same folder (made when missing), to be written by the block. When the
    block ends it replaces `path` in one step; after an error it is removed and `path` is as before."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem[:100]}.{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON atomically, keys in the order of the dicts."""
    text = json.dumps(content)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_png(path: str | Path, array: np.ndarray, palette: np.ndarray | None = None) -> None:
    """Write a PNG atomically: uint8 (H, W) or (H, W, 3), or uint16 (H, W). With `palette` (n <= 256, 3) uint8 the
    pixels are palette indices."""
    image = Image.fromarray(np.ascontiguousarray(array))
    if palette is not None:
        image.putpalette(np.asarray(palette, dtype=np.uint8).tobytes())
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG")


def resolve_inside(root: str | Path, name: str) -> Path:
    """The real path of the file that `name` (relative, as found in a label file or an archive) names below `root`.

    Raises ValueError when it would leave `root` (also through a link), or is no portable file name.
    """
    parts = PureWindowsPath(name).parts
    portable = (
        bool(parts)
        and not (PureWindowsPath(name).anchor or PurePosixPath(name).is_absolute())
        and not any(ord(character) < 32 for character in name)
        and all(part != ".." and len(part) <= 255 and not _RESERVED_NAME.fullmatch(part) for part in parts)
    )
    path = (Path(root) / name).resolve() if portable else None
    if path is None or not path.is_relative_to(Path(root).resolve()):
        raise ValueError(
            f"expected the name of a file below {root}; found {name!r}. Use names relative to that folder."
        )
    return path


@contextmanager
def _opened(path: str | Path, max_bytes: int | None, what: str) -> Iterator[BinaryIO]:
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        error = ValueError if path.is_dir() else FileNotFoundError
        raise error(f"{path}: expected {what}; found {found} there. Check the path, or put the file there.")
    size = path.stat().st_size
    if max_bytes is not None and size > max_bytes:
        raise ValueError(
            f"{path}: expected {what} of at most {max_bytes} bytes; found {size}. Split it or raise the limit."
        )
    with path.open("rb") as stream:
        yield stream


@contextmanager
def _readable(path: str | Path, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a damaged or hostile file makes the parsers raise anything
        text = " ".join(str(error).split())
        refused = re.search(r"Unsupported global: GLOBAL (\S+)", text)  # behind a page of advice in torch's message
        reason = f"the object {refused[1]}" if refused else text[:200] or type(error).__name__
        raise ValueError(
            f"{path}: expected {what}; cannot read it ({reason}). Fetch it again, or write it anew with plain data."
        ) from error


@contextmanager
def _opened_image(path: str | Path, max_pixels: int, decode: bool = True) -> Iterator[Image.Image]:
    with (
        _opened(path, None, "an image") as stream,
        _readable(path, "an image (JPEG, PNG, BMP, TIFF, WebP, GIF or PPM)"),
    ):
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            image = Image.open(stream, formats=_IMAGE_FORMATS)
        if math.prod(image.size) > max_pixels:
            raise ValueError(f"{image.width} x {image.height} pixels, more than the limit of {max_pixels}")
        if decode:
            image.load()
        yield image


def _check_unpacked_size(unpacked: int, limit: int) -> None:
    if unpacked > limit:
        raise ValueError(f"{unpacked} bytes unpacked, more than the limit of {limit}")


def _check_mat_size(stream: BinaryIO, max_bytes: int) -> None:
    """Raises ValueError unless the variables of a version 5 file, unpacked, have at most `max_bytes`."""
    header = stream.read(128)
    if not header.startswith(b"MATLAB 5.0") or header[126:] not in (b"IM", b"MI"):
        raise ValueError(f"a file that starts with {header[:10]!r}; in MATLAB, save it again with -v7")
    order: Literal["little", "big"] = "little" if header[126:] == b"IM" else "big"
    unpacked = 0
    while tag := stream.read(8):
        kind, size = int.from_bytes(tag[:4], order), int.from_bytes(tag[4:], order)
        packed = stream.read(size)
        decoder, is_packed = zlib.decompressobj(), kind == 15
        while is_packed and packed and not decoder.eof:
            unpacked += len(decoder.decompress(packed, 1 << 24))
            packed = decoder.unconsumed_tail
            _check_unpacked_size(unpacked, max_bytes)


def _tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tensors(item) for name, item in value.items()}
    if isinstance(value, np.ndarray) and value.dtype in _DTYPES:
        return torch.from_numpy(np.array(value))
    return value
