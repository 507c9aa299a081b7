#!/usr/bin/env python
"""COCO 2017 panoptic truth and instances to label files, with sampled points.

python datasets/prepare_coco.py --points 1 --workers 8
python datasets/prepare_coco.py --root my/coco --output my/labels --splits val
"""

from __future__ import annotations

import sys

from prepare_arguments import prepare_parser

from weakseg.data.catalog import label_file_name
from weakseg.data.convert.coco import prepare_coco


def main() -> None:
    parser = prepare_parser(
        __doc__, root="coco", root_holds="annotations and panoptic PNGs", output="coco_2017", splits=("train", "val")
    )
    arguments = parser.parse_args()
    try:
        counts = prepare_coco(**vars(arguments))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"prepare_coco.py: {error}")
    for split, images in counts.items():
        for kind, count in images.items():
            print(f"{split}: {count} photos -> {arguments.output}/{label_file_name(split, kind, arguments.points)}")


if __name__ == "__main__":
    main()
