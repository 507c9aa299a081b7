"""Compare two forms of one computation fairly: equal results first, then times of interleaved pairs."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

_REQUIREMENTS = {
    "required_ratio": lambda row, required: row["median_ratio"] >= required,
    "allowed_ratio": lambda row, allowed: row["median_ratio"] <= allowed,
    "allowed_share": lambda row, allowed: row["share"] <= allowed,
    # On a GPU the peak is measured; the sum of saved tensors stands in for it on a CPU.
    "allowed_gib": lambda row, allowed: row.get("allocated_peak_gib", row["saved_gib"]) <= allowed,
}


class BenchmarkError(ValueError):
    """Arguments that no scene fits, or two forms that disagree: one sentence for the user."""


def add_timing_arguments(parser: argparse.ArgumentParser) -> None:
    """--pairs and --device, of the benchmarks that run on a GPU too."""
    parser.add_argument("--pairs", type=int, default=15, help="timed pairs of runs")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda: each timed run then waits for the device")


def add_size_arguments(parser: argparse.ArgumentParser, heights: Sequence[int], things: int = 10) -> None:
    """--heights and --things of the scenes that both forms see."""
    parser.add_argument(
        "--heights", type=int, nargs="+", default=list(heights), help="image heights; width is 4/3 of it"
    )
    parser.add_argument("--things", type=int, default=things, help="thing instances an image")


def compare(
    name: str,
    literal: Callable[[], Any],
    ours: Callable[[], Any],
    check: Callable[[Any, Any], None],
    *,
    pairs: int = 15,
    device: str = "cpu",
) -> dict[str, Any]:
    """Times of `literal` (the published form) and `ours` and their ratio, over `pairs` runs in turn (A B A B ...),
    after a warm-up whose results go to `check(literal's, ours)`; it raises ValueError when they disagree, and so does
    this (BenchmarkError).

    Each ratio is of the two runs of a pair, so that other load on the machine falls on both. Times are medians in
    seconds; on a GPU they end when the device is done.
    """
    results = literal(), ours()
    try:
        check(*results)
    except ValueError as error:
        raise BenchmarkError(f"{name}: {error}") from None
    del results
    times = np.array([[seconds(literal, device), seconds(ours, device)] for _ in range(pairs)])
    ratios = times[:, 0] / times[:, 1]
    literal_seconds, our_seconds = np.median(times, axis=0).tolist()
    return {
        "name": name,
        "pairs": pairs,
        "literal_seconds": literal_seconds,
        "our_seconds": our_seconds,
        "median_ratio": float(np.median(ratios)),
        "min_ratio": float(ratios.min()),
        "max_ratio": float(ratios.max()),
    }


def met(row: dict[str, Any]) -> str:
    """Whether the row meets its requirement: "yes", "no", or "" where it has none."""
    kept = [is_met(row, row[name]) for name, is_met in _REQUIREMENTS.items() if name in row]
    return ("yes" if all(kept) else "no") if kept else ""


def on_cpu(device: str) -> bool:
    """Most requirements are of a CPU."""
    return torch.device(device).type == "cpu"


def growth(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The exponent e of seconds ~ size^e, fitted in least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def add_growth(rows: list[dict], sizes: Sequence[float]) -> list[dict]:
    """`rows` of `compare` for rising `sizes`; the last one gets the exponents of both forms."""
    if len(sizes) > 1:
        for form in ("literal", "our"):
            rows[-1][f"{form}_exponent"] = growth(sizes, [row[f"{form}_seconds"] for row in rows])
    return rows


def seconds(function: Callable[[], Any], device: str = "cpu") -> float:
    """Wall time of one call, the device's work included."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: str) -> None:
    """Wait for a GPU; nothing on the CPU."""
    if not on_cpu(device):
        torch.cuda.synchronize(device)
