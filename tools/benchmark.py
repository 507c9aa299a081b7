"""Speed of WeakSeg's algorithms against the literal form of the published ones: python tools/benchmark.py pq"""

from __future__ import annotations

import argparse

from tabulate import tabulate

from benchmarks import pq
from weakseg.safe_io import write_json

BENCHMARKS = {"pq": pq}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="benchmark", required=True)
    for name, benchmark in BENCHMARKS.items():
        command = commands.add_parser(name, help=benchmark.HELP, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        command.add_argument("--pairs", type=int, default=15, help="timed pairs of runs")
        command.add_argument("--output", help="JSON file for the rows of the table")
        benchmark.add_arguments(command)
    args = parser.parse_args()
    rows = BENCHMARKS[args.benchmark].run(args)
    print(tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".3g"))
    if args.output:
        write_json(args.output, rows)


if __name__ == "__main__":
    main()
