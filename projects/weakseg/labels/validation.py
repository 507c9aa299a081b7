"""What makes a label file valid; a fault is one sentence with the file, the annotation, its image and the remedy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from weakseg.safe_io import MAX_IMAGE_PIXELS

LABEL_FILE_VERSION = 1
BORDER = 1.0
"""Pixels by which boxes may pass the border of the image; those of COCO do so by rounding."""


def check_label_file(content: Any, path: str) -> None:
    """Raises ValueError with the first fault of the parsed label file `content`."""
    for fault in _faults(content):
        raise ValueError(f"{path}{fault}")


def _faults(content: Any) -> Iterator[str]:
    """Faults, each the rest of a sentence that starts with the file's path. Only the first is sure to be one: what
    comes later takes the form of what came before for granted."""
    yield from _structure_faults(content)
    yield from _category_faults(content["categories"])
    category_ids = {category["id"] for category in content["categories"]}
    yield from _image_faults(content["images"], category_ids)
    images = {image["id"]: image for image in content["images"]}
    seen = set()
    for annotation in content.get("annotations", []):
        if not isinstance(annotation, dict) or not _is_id(annotation.get("id")):
            yield f": every annotation needs an id, a number or string; found {_short(annotation)}. Number them from 1."
        where = f", annotation {annotation['id']} (image {annotation.get('image_id')}): "
        if annotation["id"] in seen:
            yield where + "its id is used twice. Give every annotation its own id."
        seen.add(annotation["id"])
        for fault in _annotation_faults(annotation, images, category_ids):
            yield where + fault


def _structure_faults(content: Any) -> Iterator[str]:
    if not isinstance(content, dict):
        yield f": expected a label file, a JSON object; found a {type(content).__name__}. See datasets/README.md."
    version = content.get("weakseg_version", LABEL_FILE_VERSION)
    if not isinstance(version, int) or version > LABEL_FILE_VERSION:
        yield (
            f": expected a label file of weakseg_version {LABEL_FILE_VERSION} or before; found {version!r}. "
            "Update weakseg to read it."
        )
    for key in ("categories", "images", "annotations"):
        if not isinstance(content.get(key, [] if key == "annotations" else None), list):
            yield f': expected a list "{key}" at the top; found {_short(content.get(key))}. See datasets/README.md.'
    if not content["categories"]:
        yield ': the list "categories" is empty. Name at least one class.'
    if any(isinstance(item, dict) and "segments_info" in item for item in content.get("annotations", [])[:1]):
        yield ": this is a COCO panoptic file, not a label file. Convert it with datasets/prepare_coco.py."


def _category_faults(categories: list) -> Iterator[str]:
    seen = set()
    for category in categories:
        if not isinstance(category, dict) or not _is_id(category.get("id")):
            yield f": every category needs an id, a number or a string; found {_short(category)}. Number them from 1."
        where = f", category {category['id']}: "
        if category["id"] in seen:
            yield where + "its id is used twice. Give every category its own id."
        seen.add(category["id"])
        if not isinstance(category.get("name"), str) or not category["name"].strip():
            yield where + f"expected a name; found {_short(category.get('name'))}. Name the class."
        if category.get("isthing", 1) not in (0, 1):
            yield where + f"expected isthing 1 (thing) or 0 (stuff); found {_short(category['isthing'])}. Write 1 or 0."
        color = category.get("color", [0, 0, 0])
        if not _is_numbers(color, 3) or not all(isinstance(v, int) and 0 <= v <= 255 for v in color):
            yield where + f"expected a color [r, g, b] of integers from 0 to 255; found {_short(color)}. Leave it out."


def _image_faults(images: list, category_ids: set) -> Iterator[str]:
    ids, names = set(), set()
    for image in images:
        if not isinstance(image, dict) or not _is_id(image.get("id")):
            yield f": every image needs an id, a number or a string; found {_short(image)}. Number them from 1."
        where = f", image {image['id']}: "
        if image["id"] in ids:
            yield where + "its id is used twice. Give every image its own id."
        ids.add(image["id"])
        name = image.get("file_name")
        if not isinstance(name, str) or not name:
            yield where + f"expected a file_name; found {_short(name)}. Write it relative to the image folder."
        elif name in names:
            yield where + f"the file_name {name!r} is used twice. Put all annotations of a photo under one image."
        names.add(str(name))
        sides = [image.get("width"), image.get("height")]
        if not all(type(side) is int and side > 0 for side in sides) or math.prod(sides) > MAX_IMAGE_PIXELS:
            yield where + (
                f"expected width and height in pixels, at most {MAX_IMAGE_PIXELS} pixels in all; found "
                f"{_short(sides[0])} x {_short(sides[1])}. Write the size of the image file."
            )
        tags = image.get("tags", [])
        if not isinstance(tags, list) or not all(_is_id(tag) and tag in category_ids for tag in tags):
            yield where + f"expected tags, a list of category ids; found {_short(tags)}. Use ids of the categories."
        elif len(set(tags)) < len(tags):
            yield where + f"a tag is named twice in {_short(tags)}. Name each once."


def _annotation_faults(annotation: dict, images: dict, category_ids: set) -> Iterator[str]:
    if not _is_id(annotation.get("image_id")) or annotation["image_id"] not in images:
        yield "its image_id is not among the images. Add the image, or remove the annotation."
        return
    image = images[annotation["image_id"]]
    width, height = image["width"], image["height"]
    category = annotation.get("category_id")
    if not _is_id(category) or category not in category_ids:
        yield f"its category_id {_short(category)} is not among the categories. Add the category, or correct the id."
    if annotation.get("iscrowd", 0) not in (0, 1):
        yield f"expected iscrowd 0 or 1; found {_short(annotation['iscrowd'])}. Write 1 for a group, else 0."
    if not _is_numbers([annotation.get("area", 0)], 1):
        yield f"expected a finite area; found {_short(annotation['area'])}. Leave it out if it is not known."
    if annotation.get("bbox", []) != []:
        yield from _box_faults(annotation["bbox"], width, height)
    if "point_coords" in annotation:
        yield from _point_faults(annotation["point_coords"], width, height)
    if "point_labels" in annotation:
        labels, coords = annotation["point_labels"], annotation.get("point_coords", [])
        if not isinstance(labels, list) or any(label not in (0, 1) for label in labels) or len(labels) != len(coords):
            yield f"expected point_labels, 1 or 0 for each of {len(coords)} points; found {_short(labels)}. Correct it."
    if "scribbles" in annotation:
        lines = annotation["scribbles"]
        if not isinstance(lines, list) or not lines:
            yield f"expected scribbles, a list of lists of points; found {_short(lines)}. Without any, drop the key."
        else:
            for line in lines:
                yield from _point_faults(line, width, height)
    if "expressions" in annotation:
        sentences = annotation["expressions"]
        is_filled = isinstance(sentences, list) and len(sentences) > 0
        if not is_filled or not all(isinstance(sentence, str) and sentence.strip() for sentence in sentences):
            yield f"expected expressions, a list of sentences; found {_short(sentences)}. Without any, drop the key."
    if annotation.get("segmentation", []) != []:
        yield from _mask_faults(annotation["segmentation"], width, height)


def _point_faults(points: Any, width: int, height: int) -> Iterator[str]:
    if not isinstance(points, list) or not points or not all(_is_numbers(point, 2) for point in points):
        yield f"expected points [[x, y], ...] of finite numbers; found {_short(points)}. Without any, drop the key."
        return
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            yield (
                f"point ({x}, {y}) lies outside the image of {width} x {height}. "
                "Points are (x, y) in pixels, origin top left; if your tool writes fractions, multiply by the size."
            )


def _box_faults(box: Any, width: int, height: int) -> Iterator[str]:
    if not _is_numbers(box, 4) or min(box[2:]) < 0:
        yield f"expected bbox [x, y, width, height] of finite numbers, sides >= 0; found {_short(box)}. Correct it."
        return
    x, y, box_width, box_height = box
    if min(x, y) < -BORDER or x + box_width > width + BORDER or y + box_height > height + BORDER:
        yield (
            f"box {_short(box)} lies outside the image of {width} x {height}. "
            "Boxes are [x, y, width, height] in pixels, origin top left; not [x0, y0, x1, y1]."
        )


def _mask_faults(mask: Any, width: int, height: int) -> Iterator[str]:
    if isinstance(mask, list):
        for polygon in mask:
            if (
                not isinstance(polygon, list)
                or len(polygon) % 2
                or len(polygon) < 6
                or not _is_numbers(polygon, len(polygon))
            ):
                yield (
                    "expected polygons [[x, y, x, y, x, y, ...], ...] of at least three points; found "
                    f"{_short(polygon)}. Remove or correct the polygon."
                )
        return
    if (
        not isinstance(mask, dict)
        or not isinstance(mask.get("counts"), (str, list))
        or not _is_numbers(mask.get("size"), 2)
    ):
        yield f"expected a segmentation, polygons or run lengths; found {_short(mask)}. Write COCO's polygons or RLE."
    elif mask["size"] != [height, width]:
        yield (
            f"its mask is of {mask['size'][1]} x {mask['size'][0]} pixels, the image of {width} x {height}. "
            "Draw the mask at the size of the image file."
        )
    elif isinstance(mask["counts"], list):
        counts = mask["counts"]
        if not all(type(count) is int and count >= 0 for count in counts) or sum(counts) != width * height:
            yield f"the run lengths of its mask do not add up to {width} x {height} pixels. Write the mask again."


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _is_numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
