#!/usr/bin/env python
"""COCO 2017 panoptic truth and instances to label files, with sampled points.

python datasets/prepare_coco.py --points 1 --workers 8
python datasets/prepare_coco.py --root my/coco --output my/labels --splits val
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from weakseg.data.convert.coco import prepare_coco


def parse_arguments() -> argparse.Namespace:
    data = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--root", type=Path, default=data / "coco", help="folder with annotations (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, default=data / "weakseg" / "coco_2017", help="default: %(default)s")
    parser.add_argument("--splits", nargs="+", choices=("train", "val"), default=["train", "val"])
    parser.add_argument("--points", type=int, default=0, help="points to draw in each segment (default: none)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the points (default: 0)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    try:
        counts = prepare_coco(**vars(arguments))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"prepare_coco.py: {error}")
    for split, images in counts.items():
        for kind, count in images.items():
            print(f"{split}: {count} photos -> {arguments.output}/{split}_{kind}.json")


if __name__ == "__main__":
    main()
