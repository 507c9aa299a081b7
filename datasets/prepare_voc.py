#!/usr/bin/env python
"""PASCAL VOC 2012 (and SBD) to label files: panoptic, instance and semantic truth, with sampled points.

python datasets/prepare_voc.py --points 1
python datasets/prepare_voc.py --splits train_aug --sbd datasets/SBD/dataset --points 10 --seed 3
python datasets/prepare_voc.py --root my/VOCdevkit/VOC2012 --output my/labels
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from prepare_arguments import prepare_parser

from weakseg.data.catalog import label_file_name
from weakseg.data.convert.voc import prepare_voc


def parse_arguments() -> argparse.Namespace:
    parser = prepare_parser(
        __doc__,
        root="VOC2012",
        root_holds="JPEGImages, SegmentationClass, SegmentationObject and ImageSets",
        output="voc_2012",
        splits=("train", "val", "train_aug"),
    )
    parser.add_argument("--sbd", type=Path, help="folder of SBD with cls and inst, for train_aug")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    try:
        counts = prepare_voc(**vars(arguments))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"prepare_voc.py: {error}")
    for split, count in counts.items():
        names = label_file_name(split, "{panoptic,instance,sem_seg}", arguments.points)
        print(f"{split}: {count} photos -> {arguments.output}/{names}")


if __name__ == "__main__":
    main()
