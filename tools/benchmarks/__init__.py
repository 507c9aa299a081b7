"""Compare two forms of one computation fairly: equal results first, then times of interleaved pairs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def compare(
    name: str,
    literal: Callable[[], Any],
    ours: Callable[[], Any],
    check: Callable[[Any, Any], None],
    *,
    pairs: int = 15,
) -> dict[str, Any]:
    """Times of `literal` (the published form) and `ours` and their ratio, over `pairs` runs in turn (A B A B ...),
    after a warm-up whose results go to `check(literal's, ours)`; it raises when they disagree.

    Each ratio is of the two runs of a pair, so that other load on the machine falls on both. Times are medians in
    seconds.
    """
    check(literal(), ours())
    times = np.array([[_seconds(literal), _seconds(ours)] for _ in range(pairs)])
    ratios = times[:, 0] / times[:, 1]
    literal_seconds, ours_seconds = np.median(times, axis=0).tolist()
    return {
        "name": name,
        "pairs": pairs,
        "literal_seconds": literal_seconds,
        "our_seconds": ours_seconds,
        "median_ratio": float(np.median(ratios)),
        "min_ratio": float(ratios.min()),
        "max_ratio": float(ratios.max()),
    }


def growth(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The exponent e of seconds ~ size^e, fitted in least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
