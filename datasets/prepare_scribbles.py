#!/usr/bin/env python
"""Scribbles to a label file: those of ScribbleSup, or drawn from the masks of a label file with a seed.

    python datasets/prepare_scribbles.py scribblesup --scribbles pascal_2012_scribble \\
        --images VOC2012/JPEGImages --output scribbles.json
    python datasets/prepare_scribbles.py masks --masks train_sem_seg.json --output scribbles.json --seed 3
    python datasets/prepare_scribbles.py masks --masks train_sem_seg.json --output points.json --length 0
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from weakseg.data.convert.scribblesup import labels_from_scribblesup, labels_with_sampled_scribbles
from weakseg.labels import write_label_file


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sources = parser.add_subparsers(dest="source", required=True)
    people = sources.add_parser("scribblesup", help="scribbles by people on VOC photos")
    people.add_argument("--scribbles", type=Path, required=True, help="folder of ID.xml, or of ID_scribble.txt")
    people.add_argument("--images", type=Path, required=True, help="folder of the photos ID.jpg")
    people.add_argument("--list", type=Path, help="text file of the IDs to take; default: all")
    masks = sources.add_parser("masks", help="scribbles along the skeletons of masks")
    masks.add_argument("--masks", type=Path, required=True, help="label file with masks")
    masks.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    for source in (people, masks):
        source.add_argument("--output", type=Path, required=True, help="label file to write")
        source.add_argument(
            "--length", type=float, default=1.0, help="part of each scribble to keep, 0 for one point (default: 1)"
        )
        source.add_argument("--seed", type=int, default=0, help="seed of what is drawn (default: 0)")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    options = {"fraction": arguments.length, "seed": arguments.seed}
    try:
        if arguments.source == "masks":
            labels = labels_with_sampled_scribbles(arguments.masks, workers=arguments.workers, **options)
        else:
            labels = labels_from_scribblesup(arguments.scribbles, arguments.images, list_file=arguments.list, **options)
        write_label_file(arguments.output, labels)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"prepare_scribbles.py: {error}")
    annotations = [item for items in labels.annotations.values() for item in items]
    scribbles = sum(len(item.get("scribbles", [])) for item in annotations)
    points = sum(len(item.get("point_coords", [])) for item in annotations)
    print(f"{len(labels.images)} images with {scribbles} scribbles and {points} points -> {arguments.output}")


if __name__ == "__main__":
    main()
