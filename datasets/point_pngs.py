#!/usr/bin/env python
"""Sparse PNG point labels (Point2Mask, PSPS) to a label file, and a label file to PNGs.

    python datasets/point_pngs.py to-labels --json voc_panoptic_train_aug.json \\
        --pngs voc_panoptic_train_aug_1pnt_uniform --labels points.json
    python datasets/point_pngs.py to-pngs --labels points.json --json panoptic.json --pngs points
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from weakseg.data.convert.point_png import labels_from_point_pngs, write_point_pngs
from weakseg.labels import read_label_file, write_label_file


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("direction", choices=("to-labels", "to-pngs"))
    parser.add_argument("--json", type=Path, required=True, help="panoptic json: read by to-labels, written by to-pngs")
    parser.add_argument("--pngs", type=Path, required=True, help="folder of point PNGs: read or written")
    parser.add_argument("--labels", type=Path, required=True, help="label file: written or read")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    try:
        if arguments.direction == "to-labels":
            labels = labels_from_point_pngs(arguments.json, arguments.pngs)
            write_label_file(arguments.labels, labels)
        else:
            labels = read_label_file(arguments.labels)
            write_point_pngs(labels, arguments.pngs, arguments.json)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"point_pngs.py: {error}")
    points = sum(len(item.get("point_coords", [])) for items in labels.annotations.values() for item in items)
    written = arguments.labels if arguments.direction == "to-labels" else arguments.pngs
    print(f"{len(labels.images)} images with {points} points -> {written}")


if __name__ == "__main__":
    main()
