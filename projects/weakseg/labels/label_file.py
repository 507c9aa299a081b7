"""The label file: COCO JSON and a little more (points, scribbles, expressions, tags, stuff classes)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from weakseg.labels.validation import LABEL_FILE_VERSION, check_label_file
from weakseg.safe_io import read_json, write_json

_CATEGORY_KEYS = ("id", "name", "isthing", "color")
_IMAGE_KEYS = ("id", "file_name", "height", "width", "tags")
_ANNOTATION_KEYS = (
    "id",
    "image_id",
    "category_id",
    "iscrowd",
    "bbox",
    "area",
    "point_coords",
    "point_labels",
    "scribbles",
    "expressions",
    "segmentation",
)


@dataclass(frozen=True)
class LabelFile:
    """What a label file says.

    categories: dicts of id, name, isthing (1 or 0), color ([r, g, b], optional). images: dicts of id, file_name
    (relative to the image folder), height, width, tags (category ids, optional). annotations: for every image id the
    list of its annotations, dicts with the keys of COCO and point_coords, point_labels, scribbles, expressions. info:
    anything.
    """

    categories: list[dict]
    images: list[dict]
    annotations: dict[Any, list[dict]]
    info: dict = field(default_factory=dict)

    @cached_property
    def class_index(self) -> dict[int, int]:
        """Category id -> class: the things in the order of the file, then the stuff."""
        ordered = sorted(self.categories, key=lambda category: not category["isthing"])
        return {category["id"]: index for index, category in enumerate(ordered)}

    @cached_property
    def num_things(self) -> int:
        return sum(category["isthing"] for category in self.categories)

    @cached_property
    def num_stuff(self) -> int:
        return len(self.categories) - self.num_things


def read_label_file(path: str | Path) -> LabelFile:
    """Read and check a label file, or any COCO instances file (all classes are things then).

    Raises FileNotFoundError, or ValueError that names the file, the annotation, its image and the remedy.
    """
    content = read_json(path)
    check_label_file(content, str(path))
    categories = [{**category, "isthing": int(category.get("isthing", 1))} for category in content["categories"]]
    annotations: dict[Any, list[dict]] = {image["id"]: [] for image in content["images"]}
    for annotation in content.get("annotations", []):
        # Some tools write empty masks and boxes for "none".
        kept = {key: value for key, value in annotation.items() if value != [] or key not in ("segmentation", "bbox")}
        annotations[annotation["image_id"]].append(kept)
    return LabelFile(categories, content["images"], annotations, content.get("info", {}))


def write_label_file(path: str | Path, label_file: LabelFile) -> None:
    """Write a label file atomically; equal content gives equal bytes. Raises ValueError when it is not valid."""
    annotations = [item for image in label_file.images for item in label_file.annotations.get(image["id"], [])]
    content = {
        "weakseg_version": LABEL_FILE_VERSION,
        "info": label_file.info,
        "categories": [_ordered(category, _CATEGORY_KEYS) for category in label_file.categories],
        "images": [_ordered(image, _IMAGE_KEYS) for image in label_file.images],
        "annotations": [_ordered(annotation, _ANNOTATION_KEYS) for annotation in annotations],
    }
    check_label_file(content, str(path))
    write_json(path, content)


def _ordered(item: dict, keys: tuple[str, ...]) -> dict:
    return {key: item[key] for key in (*keys, *sorted(item.keys() - set(keys))) if key in item}
