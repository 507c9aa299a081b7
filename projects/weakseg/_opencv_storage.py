"""Numbers in the YAML of OpenCV's FileStorage (`.yml.gz`), parsed in bulk. Used by `safe_io` only."""

from __future__ import annotations

import gzip
import re
from typing import Any, BinaryIO

import numpy as np

_CHUNK = 1 << 20
_HEADER = re.compile(rb"%YAML[: ]1\.[0-2][ \t]*\n(---[ \t]*\n)?")
_NODE = re.compile(rb"\n(\w+):")
_SCALAR = re.compile(rb"\s*(\w+):[ \t]*([-+]?[\d.]+(?:[eE][-+]?\d+)?)[ \t]*(?:\n|$)")
_MARKER = re.compile(rb"^[ \t]*-[ \t]+", re.MULTILINE)


def load_opencv_storage(stream: BinaryIO, max_bytes: int) -> dict[str, Any]:
    """The top-level nodes of a gzipped file: a mapping of numbers as a dict, a sequence of numbers as an array (int64,
    or float64 where one has a point or an exponent), a sequence of sequences as a list of arrays.

    Raises ValueError for anything else and for more than `max_bytes` unpacked, and what gzip raises for a damaged file.
    """
    text = _unpacked(stream, max_bytes)
    header = _HEADER.match(text)
    if not header:
        raise ValueError(f"a file that starts with {_shown(text)}, not with %YAML:1.0")
    if b"!" in text:
        raise ValueError("a tag such as !!opencv-matrix, where plain sequences of numbers are expected")
    nodes = list(_NODE.finditer(text, header.end() - 1))
    lead = text[header.end() : nodes[0].start() if nodes else len(text)]
    if lead.strip():
        raise ValueError(f"{_shown(lead)} where the name of a node is expected")
    ends = [node.start() for node in nodes[1:]] + [len(text)]
    storage: dict[str, Any] = {}
    for node, end in zip(nodes, ends, strict=True):
        name = node[1].decode()
        if name in storage:
            raise ValueError(f"two nodes of the name {name}")
        try:
            storage[name] = _node(text[node.end() : end])
        except ValueError as error:
            raise ValueError(f"node {name}: {error}") from error
    return storage


def _unpacked(stream: BinaryIO, max_bytes: int) -> bytes:
    """The unpacked bytes with line ends \\n. Stops at the limit, whatever the file goes on to unpack to."""
    chunks, size = [], 0
    with gzip.GzipFile(fileobj=stream) as archive:
        while chunk := archive.read(_CHUNK):
            size += len(chunk)
            if size > max_bytes:
                raise ValueError(f"more than the limit of {max_bytes} bytes unpacked")
            chunks.append(chunk)
    return b"".join(chunks).replace(b"\r\n", b"\n")


def _node(text: bytes) -> Any:
    start = text.lstrip()[:1]
    if start in (b"[", b"-"):
        return _sequence(text)
    mapping, position = {}, 0
    while scalar := _SCALAR.match(text, position):
        mapping[scalar[1].decode()] = _numbers(scalar[2])[0].item()
        position = scalar.end()
    if text[position:].strip() or not mapping:
        raise ValueError(f"{_shown(text[position:])} where numbers are expected")
    return mapping


def _sequence(text: bytes, nested: bool = True) -> Any:
    """Flow style `[ 1, 2 ]`, `[ [ 1 ], [ 2, 3 ] ]`, or block style with a line `- ...` an item."""
    inner = text.strip()
    if inner[:1] == b"[":
        if inner[-1:] != b"]":
            raise ValueError("a sequence that does not end")
        inner = inner[1:-1]
        if inner.lstrip()[:1] != b"[":
            return _numbers(inner)
        rows = re.split(rb"\]\s*,\s*(?=\[)", inner)
        rows = [row + b"]" for row in rows[:-1]] + rows[-1:]
    else:
        first = re.match(rb"-\s+(\S)", inner)
        if not first:
            raise ValueError(f"{_shown(inner)} where a sequence is expected")
        if first[1] not in b"[-" or re.match(rb"-[ \t]+-[\d.]", inner):
            return _numbers(_MARKER.sub(b",", b"\n" + inner).replace(b",", b" ", 1))
        before = text[: text.index(b"-")]
        rows = re.split(rb"\n" + before.rpartition(b"\n")[2] + rb"-(?=\s)", b"\n" + text)[1:]
    if not nested:
        raise ValueError("sequences nested more than two deep")
    return [_sequence(row, nested=False) for row in rows]


def _numbers(text: bytes) -> np.ndarray:
    """Numbers between commas; a comma may follow the last."""
    left = text.translate(None, b"0123456789.,+-eE \t\n")
    if left or ((b"-" in text or b"+" in text) and re.search(rb"[-+]\s", text)):
        raise ValueError(f"{_shown(left or b'-')} between numbers")
    text = text.strip().removesuffix(b",")
    if not text:
        return np.zeros(0, np.int64)
    dtype = np.float64 if b"." in text or b"e" in text or b"E" in text else np.int64
    numbers = np.fromstring(text, dtype, sep=",")
    if len(numbers) != text.count(b",") + 1:  # where numpy only warns that it stopped early
        raise ValueError(f"{text.count(b',') + 1} entries of which {len(numbers)} are numbers")
    return numbers


def _shown(text: bytes) -> str:
    return repr(text.strip()[:20].decode("latin-1"))
