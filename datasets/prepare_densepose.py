#!/usr/bin/env python
"""COCO-DensePose to label files and label PNGs of 14 body parts, with sampled points. The photos are not read.

python datasets/prepare_densepose.py --splits train minival valminusminival --points 1 --workers 8
python datasets/prepare_densepose.py --splits train --list panoptic_train2014_sub.txt --points 1 --output my/labels
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from prepare_arguments import prepare_parser

from weakseg.data.catalog import label_file_name
from weakseg.data.convert.densepose import prepare_densepose


def parse_arguments() -> argparse.Namespace:
    parser = prepare_parser(
        __doc__,
        root="coco",
        root_holds="annotations/densepose_coco_2014_{split}.json (or densepose_{split}2014.json)",
        output="densepose_2014",
        splits=("train", "minival", "valminusminival"),
    )
    parser.add_argument(
        "--list", type=Path, dest="list_file", help="SegSort list; take only the photos that it names, of one split"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    try:
        counts = prepare_densepose(**vars(arguments))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"prepare_densepose.py: {error}")
    for split, count in counts.items():
        print(f"{split}: {count} photos -> {arguments.output}/{label_file_name(split, 'sem_seg', arguments.points)}")


if __name__ == "__main__":
    main()
