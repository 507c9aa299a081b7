"""Arguments that prepare_voc.py and prepare_coco.py share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def prepare_parser(
    description: str, *, root: str, root_holds: str, output: str, splits: tuple[str, ...]
) -> argparse.ArgumentParser:
    """A parser with --root, --output, --splits, --points, --seed and --workers. `root` and `output`: default folders
    below $DETECTRON2_DATASETS; of `splits` the first two are the default."""
    data = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--root", type=Path, default=data / root, help=f"folder with {root_holds} (default: %(default)s)")
    add("--output", type=Path, default=data / "weakseg" / output, help="default: %(default)s")
    add("--splits", nargs="+", choices=splits, default=list(splits[:2]), help=f"default: {' '.join(splits[:2])}")
    add(
        "--points",
        type=int,
        default=0,
        help="points to draw in each segment (default: none); more than one go into files of their own, *_pN.json",
    )
    add("--seed", type=int, default=0, help="seed of the points (default: 0)")
    add("--workers", type=int, default=1, help="processes (default: 1)")
    return parser
