"""Speed and memory of WeakSeg against the literal form of the published algorithms, for example:
python tools/benchmark.py pseudo_labels --output pseudo_labels.json"""

from __future__ import annotations

import argparse

from tabulate import tabulate

from benchmarks import boundary_loss, color_losses, graph_distance, inference, memory, pq, pseudo_labels, step
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
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="benchmark", required=True)
    for name, benchmark in BENCHMARKS.items():
        command = commands.add_parser(name, help=benchmark.HELP, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        command.add_argument("--output", help="JSON file for the rows of the table")
        benchmark.add_arguments(command)
    args = parser.parse_args()
    rows = BENCHMARKS[args.benchmark].run(args)
    print(tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".3g"))
    if args.output:
        write_json(args.output, rows)


if __name__ == "__main__":
    main()
