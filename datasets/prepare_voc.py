#!/usr/bin/env python
"""PASCAL VOC 2012 (and SBD) to label files: panoptic, instance and semantic truth, with sampled points.

python datasets/prepare_voc.py --points 1
python datasets/prepare_voc.py --splits train_aug val --sbd datasets/SBD/dataset --points 10 --seed 3
python datasets/prepare_voc.py --root my/VOCdevkit/VOC2012 --output my/labels
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from weakseg.data.convert.voc import prepare_voc


def parse_arguments() -> argparse.Namespace:
    data = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--root", type=Path, default=data / "VOC2012", help="folder with JPEGImages (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, default=data / "weakseg" / "voc_2012", help="default: %(default)s")
    parser.add_argument("--splits", nargs="+", choices=("train", "val", "train_aug"), default=["train", "val"])
    parser.add_argument("--sbd", type=Path, help="folder of SBD with cls and inst, for train_aug")
    parser.add_argument("--points", type=int, default=0, help="points to draw in each segment (default: none)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the points (default: 0)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    try:
        counts = prepare_voc(**vars(arguments))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"prepare_voc.py: {error}")
    for split, count in counts.items():
        print(f"{split}: {count} photos -> {arguments.output}/{split}_{{panoptic,instance,sem_seg}}.json")


if __name__ == "__main__":
    main()
