"""Measure label maps, such as pseudo labels, by the masks of a label file: IoU of each class, their mean, accuracy.

    python tools/evaluate_label_maps.py train_panoptic.json pseudo_labels/semantic
    python tools/evaluate_label_maps.py val_panoptic.json predictions/semantic --published
    python tools/evaluate_label_maps.py train_panoptic.json pseudo_labels/semantic --instance-weighted

For the image NAME.jpg of the label file, PREDICTIONS/NAME.png is a label map as tools/make_pseudo_labels.py writes it:
0 the background, from 1 on the other classes, 255 or any other value no class, which is an error of each pixel that has
one. Pixels that no mask of the label file covers do not count.

The mean is over the classes that occur in the truth or in the predictions. --published measures as SPML's release does:
a class that occurs nowhere counts with IoU 0, the value after that of the last class counts as a prediction of the last
class, and images without a label map are left out. --instance-weighted: the IoU of each image, weighted by its number
of things of the class; with --published what is no thing, and what no mask covers, are an instance too.
"""

import argparse
import operator
from collections.abc import Iterable, Iterator
from functools import reduce
from pathlib import Path

import numpy as np
from detectron2.data.catalog import Metadata
from tabulate import tabulate
from tqdm import tqdm

from weakseg.engine.cli import run_command
from weakseg.evaluation.published_mean_iou import (
    BACKGROUND,
    BOUNDARY,
    class_iou,
    instance_weighted_iou,
    iou_counts,
    mean_iou,
    pixel_accuracy,
)
from weakseg.evaluation.truth import Truth
from weakseg.labels import IGNORED, ClassOrder, LabelFile, read_label_file
from weakseg.proposals import LabelMaps
from weakseg.proposals.map_folder import map_file
from weakseg.weights import some_names

Measured = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Prediction, truth (ordered classes, see `ClassOrder`) and instances of an image, (H, W) integers each."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path, metavar="LABELS", help="label file with masks that share no pixel")
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="folder of label maps NAME.png")
    parser.add_argument("--published", action="store_true", help="measure as SPML's release does")
    parser.add_argument("--instance-weighted", action="store_true", help="weight images by their things of a class")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    labels = read_label_file(args.labels)
    names = [category["name"] for category in sorted(labels.categories, key=lambda c: labels.class_index[c["id"]])]
    if args.instance_weighted and not labels.num_things:
        raise ValueError(f"--instance-weighted: expected things in {args.labels}; found stuff alone. Leave it out.")
    truth = Truth(Metadata(label_file=str(args.labels), stuff_classes=names, ignore_label=IGNORED))
    found = images_to_measure(labels, args.predictions, allow_missing=args.published)
    order = ClassOrder.of(names)
    ordered_names = [names[index] for index in order.class_index]
    images = measured(tqdm(found, unit="image"), truth, order, LabelMaps(args.predictions))
    measure = by_instances if args.instance_weighted else by_pixels
    rows = measure(images, ordered_names, args.published)
    print(f"{len(found)} of {len(labels.images)} images\n{tabulate(rows, ['', 'percent'], floatfmt='.2f')}")


def images_to_measure(labels: LabelFile, folder: Path, *, allow_missing: bool) -> list[dict]:
    """The images of the label file that have a label map."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected a folder of label maps; found none. Check the path.")
    found = [image for image in labels.images if map_file(folder, image["file_name"]).is_file()]
    if not found or (len(found) < len(labels.images) and not allow_missing):
        there = {image["file_name"] for image in found}
        missing = [image["file_name"] for image in labels.images if image["file_name"] not in there]
        raise ValueError(
            f"{folder}: expected a label map NAME.png for each of {len(labels.images)} images; found none for "
            f"{len(missing)} ({some_names(missing)}). Make them, or choose the folder that has them."
        )
    return found


def measured(images: Iterable[dict], truth: Truth, order: ClassOrder, read: LabelMaps) -> Iterator[Measured]:
    num_classes = len(order.class_index)
    for image in images:
        values = read(image)
        prediction = order.from_png(values)
        # The one value that fault w is about; to the corrected measure it is as unlabelled as all above it.
        prediction[values == num_classes + (not order.has_background)] = num_classes
        id_map, segments = truth.panoptic(image["id"])
        # Things above 255, as an id must not be taken for the boundary.
        number = [256 + segment.id if segment.class_index < truth.num_things else BACKGROUND for segment in segments]
        yield prediction, order.from_house(truth.class_map(image["id"])), np.array([BOUNDARY, *number])[id_map]


def by_pixels(images: Iterable[Measured], names: list[str], published: bool) -> list[tuple[str, float]]:
    """Rows of the table."""
    options = {"num_classes": len(names), "official": published}
    counts = reduce(operator.add, (iou_counts(prediction, true, **options) for prediction, true, _ in images))
    there = (counts.truth + counts.predicted > 0) | published
    rows = [(name, 100 * iou) for name, iou, counted in zip(names, class_iou(counts), there) if counted]
    return [*rows, ("mean", 100 * mean_iou(counts, official=published)), ("accuracy", 100 * pixel_accuracy(counts))]


def by_instances(images: Iterable[Measured], names: list[str], published: bool) -> list[tuple[str, float]]:
    """Rows of the table."""
    iou, instances = instance_weighted_iou(images, num_classes=len(names), official=published)
    there = (instances > 0) | published
    rows = [(f"{name} ({number})", 100 * value) for name, value, number in zip(names, iou, instances) if number]
    return [*rows, ("mean", 100 * float(iou[there].mean()) if there.any() else 0.0)]


if __name__ == "__main__":
    run_command(main)
