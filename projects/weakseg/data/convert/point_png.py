"""Sparse PNG point labels (Point2Mask and PSPS, card section 6), read, and turned into a label file and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from weakseg.data.convert.segments import numbered, read_panoptic_json
from weakseg.labels import LabelFile
from weakseg.safe_io import read_label_png, resolve_inside, write_json, write_png

VOID = 255


def decode_ids(png: np.ndarray) -> np.ndarray:
    """Segment ids (H, W) int64 of a panoptic PNG (H, W, 3) uint8: R + 256 G + 65536 B."""
    return png.astype(np.int64) @ np.array([1, 256, 65536])


def encode_ids(ids: np.ndarray) -> np.ndarray:
    """The panoptic PNG (H, W, 3) uint8 of segment ids (H, W) below 2**24."""
    return np.stack([ids & 255, (ids >> 8) & 255, ids >> 16], axis=-1).astype(np.uint8)


def point_labels_from_png(
    png: np.ndarray, segments_info: list[dict], class_index: dict[int, int], num_things: int
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Instances and semantic point map of one image (card section 6).

    png (H, W, 3) uint8; `segments_info` of the full panoptic json: dicts of id, category_id, area, iscrowd (default
    0), bbox [x, y, w, h]; `class_index`: category id -> class, things 0..num_things-1 first. Segments without area, or
    with a box side below 1, are skipped.

    Returns classes (N,) int64 of the things that are no crowd, in json order; for each of them its points (P_n, 2)
    float32 as (x, y) at pixel centres, P_n = 0 where no pixel carries its id; and the map (H, W) uint8 of the classes
    of all kept segments (stuff and crowds too) at their pixels, 255 elsewhere.
    """
    ids = decode_ids(png)
    classes, points = [], []
    semantic = np.full(ids.shape, VOID, dtype=np.uint8)
    for segment in segments_info:
        if not _is_kept(segment):
            continue
        class_ = class_index[segment["category_id"]]
        rows, columns = np.nonzero(ids == segment["id"])
        semantic[rows, columns] = class_
        if class_ < num_things and not segment.get("iscrowd", 0):
            classes.append(class_)
            points.append(np.stack([columns, rows], axis=1).astype(np.float32) + 0.5)
    return np.array(classes, dtype=np.int64), points, semantic


def labels_from_point_pngs(panoptic_json: Path, folder: Path) -> LabelFile:
    """A label file from point PNGs and the full panoptic json: every labelled pixel is a point at its centre.

    `images` and `annotations` of the json are paired by position; the PNG has the name of the image. A segment that no
    pixel names stays, with its box and area, without `point_coords`.
    """
    content = read_panoptic_json(panoptic_json)
    if len(content["images"]) != len(content["annotations"]):
        counts = f"{len(content['images'])} images and {len(content['annotations'])} annotations"
        raise ValueError(f"{panoptic_json}: expected as many images as annotations; found {counts}. Fetch it again.")
    images = [{key: image[key] for key in ("id", "file_name", "height", "width")} for image in content["images"]]
    annotations = []
    for image, entry in tqdm(zip(images, content["annotations"]), total=len(images), desc="point PNGs", disable=None):
        path = resolve_inside(folder, str(Path(image["file_name"]).with_suffix(".png")))
        ids = decode_ids(read_label_png(path))
        if ids.shape != (image["height"], image["width"]):
            expected = f"{image['width']} x {image['height']}"
            raise ValueError(
                f"{path}: expected {expected} pixels; found {ids.shape[1]} x {ids.shape[0]}. Fetch it again."
            )
        annotations.append([_annotation(segment, ids) for segment in entry["segments_info"] if _is_kept(segment)])
    keys = ("id", "name", "isthing", "color")
    categories = [{key: category[key] for key in keys if key in category} for category in content["categories"]]
    return LabelFile(categories, images, numbered(images, annotations), {"description": "points from PNG"})


def write_point_pngs(labels: LabelFile, folder: Path, panoptic_json: Path) -> None:
    """Point PNGs (one an image, named as it) and the panoptic json of the points of a label file.

    Segments are numbered from 1 in each image. Points that are not on the object cannot be said in this format and are
    left out. Where a label file has no area or box, those of the labelled pixels stand in.
    """
    entries = []
    for image in tqdm(labels.images, desc="point PNGs", disable=None):
        ids = np.zeros((image["height"], image["width"]), dtype=np.int64)
        segments = []
        for number, annotation in enumerate(labels.annotations[image["id"]], 1):
            pixels = _positive_pixels(annotation)
            for x, y in pixels:
                if ids[y, x]:
                    raise ValueError(
                        f"{image['file_name']}: expected at most one annotation at a pixel; found two at ({x}, {y}). "
                        "Move one of the points, or keep the label file."
                    )
            ids[pixels[:, 1], pixels[:, 0]] = number
            segments.append(_segment(number, annotation, pixels))
        name = str(Path(image["file_name"]).with_suffix(".png"))
        write_png(resolve_inside(folder, name), encode_ids(ids))
        entries.append({"image_id": image["id"], "file_name": name, "segments_info": segments})
    write_json(panoptic_json, {"images": labels.images, "annotations": entries, "categories": labels.categories})


def _is_kept(segment: dict) -> bool:
    return segment["area"] > 0 and min(segment["bbox"][2:]) >= 1


def _annotation(segment: dict, ids: np.ndarray) -> dict:
    rows, columns = np.nonzero(ids == segment["id"])
    annotation = {key: segment[key] for key in ("category_id", "bbox", "area")} | {"iscrowd": segment.get("iscrowd", 0)}
    if len(rows):
        annotation["point_coords"] = (np.stack([columns, rows], axis=1) + 0.5).tolist()
    return annotation


def _positive_pixels(annotation: dict) -> np.ndarray:
    """Distinct pixels (P, 2) int64 as (x, y) of the points on the object."""
    coords = annotation.get("point_coords", [])
    labels = annotation.get("point_labels", [1] * len(coords))
    positive = [point for point, label in zip(coords, labels) if label]
    return np.unique(np.floor(np.array(positive).reshape(-1, 2)).astype(np.int64), axis=0)


def _segment(number: int, annotation: dict, pixels: np.ndarray) -> dict:
    box = annotation.get("bbox")
    if box is None:
        low, high = (
            (pixels.min(axis=0), pixels.max(axis=0) + 1) if len(pixels) else (np.zeros(2, int), np.zeros(2, int))
        )
        box = [*low.tolist(), *(high - low).tolist()]
    return {
        "id": number,
        "category_id": annotation["category_id"],
        "iscrowd": annotation.get("iscrowd", 0),
        "bbox": box,
        "area": annotation.get("area", len(pixels)),
    }
