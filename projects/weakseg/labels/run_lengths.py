"""An id map straight from COCO's run lengths: decoding each mask to pixels first takes most of an evaluation's time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy import ndarray
from pycocotools import mask as rle_tools


def run_lengths(segmentation: list | dict, height: int, width: int) -> ndarray:
    """Lengths (R,) int64 of alternating runs off and on the mask, down the columns from left to right, of COCO polygons
    or run lengths. Raises ValueError when they are damaged or of another image size."""
    if isinstance(segmentation, list):
        counts = rle_tools.merge(rle_tools.frPyObjects(segmentation, height, width))["counts"]
    else:
        counts = segmentation["counts"]
    runs = np.array(counts, np.int64) if isinstance(counts, list) else parse_counts(counts)
    if runs.sum() != height * width or (runs < 0).any():
        raise ValueError(f"expected run lengths of {width} x {height} pixels; found {runs.sum()} pixels.")
    return runs


def id_map_of_runs(masks: Iterable[ndarray], height: int, width: int) -> ndarray:
    """Id map (H, W) int32 of masks given as `run_lengths`: 1, 2, ... in their order, 0 elsewhere, the sum of ids where
    masks overlap."""
    change = np.zeros(height * width + 1, np.int32)
    for segment_id, runs in enumerate(masks, start=1):
        borders = np.cumsum(runs)
        np.add.at(change, borders[0::2], segment_id)
        np.add.at(change, borders[1::2], -segment_id)
    # An odd number of runs ends off the mask; its last border falls on the extra pixel.
    return np.ascontiguousarray(np.cumsum(change[:-1], dtype=np.int32).reshape(width, height).T)


def parse_counts(counts: str | bytes) -> ndarray:
    """COCO's compressed counts: from the fourth on, differences to the count two places before, as signed numbers in
    characters of five bits (the sixth: more follow), lowest first, from "0" on."""
    codes = np.frombuffer(counts.encode("ascii") if isinstance(counts, str) else counts, np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(codes < 32)
    if not len(last) or last[-1] != len(codes) - 1:
        raise ValueError(f"expected compressed run lengths; found the incomplete {str(counts)[:80]!r}.")
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    numbers = np.add.reduceat((codes & 31) << 5 * place, first)
    numbers -= np.where(codes[last] & 16, 32 << 5 * place[last], 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
