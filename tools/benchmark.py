"""Speed and memory of WeakSeg against the literal form of the published algorithms, for example:
python tools/benchmark.py pseudo_labels --output pseudo_labels.json"""

from __future__ import annotations

import argparse

import torch
from tabulate import tabulate

from benchmarks import (
    BenchmarkError,
    boundary_loss,
    color_losses,
    contrast,
    crf,
    graph_distance,
    inference,
    kmeans,
    majority,
    memory,
    met,
    pq,
    pseudo_labels,
    random_walk,
    retrieval,
    step,
)
from weakseg.engine.cli import run_command
from weakseg.safe_io import write_json

BENCHMARKS = {
    "pq": pq,
    "pseudo_labels": pseudo_labels,
    "graph_distance": graph_distance,
    "color_losses": color_losses,
    "boundary_loss": boundary_loss,
    "step": step,
    "memory": memory,
    "inference": inference,
    "crf": crf,
    "contrast": contrast,
    "kmeans": kmeans,
    "retrieval": retrieval,
    "majority": majority,
    "random_walk": random_walk,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="benchmark", required=True)
    for name, benchmark in BENCHMARKS.items():
        command = commands.add_parser(name, help=benchmark.HELP, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        command.add_argument("--output", help="JSON file for the rows of the table")
        benchmark.add_arguments(command)
    args = parser.parse_args()
    check_counts(vars(args))
    check_device(getattr(args, "device", "cpu"))
    try:
        rows = BENCHMARKS[args.benchmark].run(args)
    except BenchmarkError as error:
        # As one of this file, which is how `run_command` knows a sentence from a fault.
        raise ValueError(error) from None
    rows = [row | {"met": met(row)} for row in rows]
    print(tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".3g"))
    if args.output:
        write_json(args.output, rows)


def check_counts(options: dict[str, object]) -> None:
    """Sizes and numbers of things, images, runs and pairs are 1 or more."""
    for name, value in options.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and not isinstance(number, bool) and number < 1:
                option = name.replace("_", "-")
                raise ValueError(f"--{option}: expected 1 or more; found {number}. Ask for at least one.")


def check_device(device: str) -> None:
    try:
        is_known = torch.empty(1, device=device).device.type in ("cpu", "cuda")
    except (RuntimeError, AssertionError):  # the latter where torch was built without CUDA
        is_known = False
    if not is_known:
        raise ValueError(f"--device: expected cpu, or a CUDA device of this machine; found {device!r}. Use cpu.")


if __name__ == "__main__":
    run_command(main)
