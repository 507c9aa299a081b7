"""COCO 2017 panoptic truth (PNG and JSON) and official instances to label files."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from weakseg.data.catalog import label_file_name
from weakseg.data.convert.point_png import decode_ids
from weakseg.data.convert.segments import (
    add_points,
    annotations_of,
    image_generator,
    mapped,
    numbered,
    read_panoptic_json,
    tags_of,
)
from weakseg.labels import LabelFile, decode_segmentation, read_label_file, write_label_file
from weakseg.safe_io import read_label_png, resolve_inside


def prepare_coco(
    root: Path, output: Path, *, splits: list[str], points: int = 0, seed: int = 0, workers: int = 1
) -> dict[str, dict[str, int]]:
    """Write {split}_panoptic.json and {split}_instance.json; `points` sampled points a segment, none for 0; with
    several, the names of both files end in _p{points}.

    The instances are those of annotations/instances_{split}2017.json (polygons that may overlap) when it is there,
    else the things of the panoptic truth. Returns the number of images of each file.
    """
    counts = {}
    for split in splits:
        panoptic = panoptic_labels(root, split, points=points, seed=seed, workers=workers)
        official = root / "annotations" / f"instances_{split}2017.json"
        if official.is_file():
            instances = instance_labels(official, points=points, seed=seed, workers=workers)
        else:
            instances = _things_of(panoptic)
        write_label_file(output / label_file_name(split, "panoptic", points), panoptic)
        write_label_file(output / label_file_name(split, "instance", points), instances)
        counts[split] = {"panoptic": len(panoptic.images), "instance": len(instances.images)}
    return counts


def panoptic_labels(root: Path, split: str, *, points: int = 0, seed: int = 0, workers: int = 1) -> LabelFile:
    """Things and stuff with disjoint masks from annotations/panoptic_{split}2017.json and panoptic_{split}2017/."""
    path = root / "annotations" / f"panoptic_{split}2017.json"
    content = read_panoptic_json(path)
    segments = {entry["image_id"]: entry for entry in content["annotations"]}
    missing = [image["file_name"] for image in content["images"] if image["id"] not in segments]
    if missing:
        raise ValueError(f"{path}: expected segments of every image; found none of {missing[0]}. Fetch the file again.")
    pairs = [(image, segments[image["id"]]) for image in content["images"]]
    convert = partial(_convert_panoptic, folder=root / f"panoptic_{split}2017", points=points, seed=seed)
    annotations = mapped(convert, pairs, workers=workers, description=f"COCO {split} panoptic")
    return _label_file(content, content["images"], annotations, f"COCO 2017 {split}, panoptic")


def instance_labels(path: Path, *, points: int = 0, seed: int = 0, workers: int = 1) -> LabelFile:
    """The annotations of a COCO instances file, unchanged but for their points."""
    labels = read_label_file(path)
    pairs = [(image, labels.annotations[image["id"]]) for image in labels.images]
    convert = partial(_point_at_instances, points=points, seed=seed)
    annotations = mapped(convert, pairs, workers=workers, description=path.stem)
    images = [_image(image, items) for image, items in zip(labels.images, annotations)]
    by_image = {image["id"]: items for image, items in zip(images, annotations)}
    return LabelFile(_colored(labels.categories), images, by_image, {"description": f"COCO 2017, {path.name}"})


def _convert_panoptic(pair: tuple[dict, dict], *, folder: Path, points: int, seed: int) -> list[dict]:
    image, entry = pair
    path = resolve_inside(folder, entry["file_name"])
    ids = decode_ids(read_label_png(path))
    if ids.shape != (image["height"], image["width"]):
        expected = f"{image['width']} x {image['height']}"
        raise ValueError(f"{path}: expected {expected} pixels; found {ids.shape[1]} x {ids.shape[0]}. Fetch it again.")
    segments = entry["segments_info"]
    if set(np.unique(ids)) - {0} != {segment["id"] for segment in segments}:
        raise ValueError(f"{path}: expected the segment ids of the json; found others. Fetch both from one release.")
    annotations, masks = annotations_of(ids, segments)
    add_points(annotations, masks, points, image_generator(seed, image["file_name"]))
    return annotations


def _point_at_instances(pair: tuple[dict, list[dict]], *, points: int, seed: int) -> list[dict]:
    image, annotations = pair
    annotations = [dict(annotation) for annotation in annotations]
    if points:
        size = image["height"], image["width"]
        masks = [decode_segmentation(annotation["segmentation"], *size) for annotation in annotations]
        add_points(annotations, masks, points, image_generator(seed, image["file_name"]))
    return annotations


def _things_of(labels: LabelFile) -> LabelFile:
    things = {category["id"] for category in labels.categories if category["isthing"]}
    kept = [[a for a in labels.annotations[image["id"]] if a["category_id"] in things] for image in labels.images]
    images = [_image(image, items) for image, items in zip(labels.images, kept)]
    categories = [category for category in labels.categories if category["isthing"]]
    description = labels.info["description"].replace("panoptic", "things of the panoptic truth")
    return LabelFile(categories, images, dict(zip(labels.annotations, kept)), {"description": description})


def _label_file(content: dict, images: list[dict], annotations: list[list[dict]], description: str) -> LabelFile:
    kept = [_image(image, items) for image, items in zip(images, annotations)]
    return LabelFile(_colored(content["categories"]), kept, numbered(kept, annotations), {"description": description})


def _image(image: dict, annotations: list[dict]) -> dict:
    return {key: image[key] for key in ("id", "file_name", "height", "width")} | {"tags": tags_of(annotations)}


def _colored(categories: list[dict]) -> list[dict]:
    """The categories in the order of the file; the published files have no colours, Detectron2 has."""
    colors = {category["id"]: category["color"] for category in COCO_CATEGORIES}
    return [
        {"id": c["id"], "name": c["name"], "isthing": c.get("isthing", 1), "color": c.get("color", colors.get(c["id"]))}
        for c in categories
    ]
