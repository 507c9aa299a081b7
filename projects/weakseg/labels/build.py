"""From a data set record (a dict of plain data) to `WeakLabels`."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.structures import BoxMode
from pycocotools import mask as coco_mask
from torch import Tensor

from weakseg.labels.run_lengths import parse_counts
from weakseg.labels.weak_labels import WeakLabels


def weak_labels(record: dict) -> WeakLabels:
    """All labels that a record carries. The targets are its annotations, in order.

    record: height, width, annotations (dicts of category_id, a contiguous class index, iscrowd and the label keys),
    tags; what is absent gives no label. Raises ValueError when a mask cannot be decoded to height x width.
    """
    annotations = record.get("annotations", [])
    height, width = record["height"], record["width"]
    points, point_target, point_positive = [], [], []
    scribbles, scribble_target, boxes, box_target = [], [], [], []
    masks, mask_target, expressions, expression_target = [], [], [], []
    for target, annotation in enumerate(annotations):
        coords = annotation.get("point_coords", [])
        points += coords
        point_target += [target] * len(coords)
        point_positive += [bool(label) for label in annotation.get("point_labels", [1] * len(coords))]
        for line in annotation.get("scribbles", []):
            scribbles.append(_floats(line, 2))
            scribble_target.append(target)
        if "bbox" in annotation:
            mode = annotation.get("bbox_mode", BoxMode.XYWH_ABS)
            boxes.append(BoxMode.convert(list(annotation["bbox"]), mode, BoxMode.XYXY_ABS))
            box_target.append(target)
        if "segmentation" in annotation:
            masks.append(_decoded(record, annotation))
            mask_target.append(target)
        expressions += annotation.get("expressions", [])
        expression_target += [target] * len(annotation.get("expressions", []))
    return WeakLabels(
        image_size=(height, width),
        classes=_integers([annotation["category_id"] for annotation in annotations]),
        is_crowd=torch.tensor([bool(annotation.get("iscrowd", 0)) for annotation in annotations], dtype=torch.bool),
        points=_floats(points, 2),
        point_target=_integers(point_target),
        point_positive=torch.tensor(point_positive, dtype=torch.bool),
        scribbles=scribbles,
        scribble_target=_integers(scribble_target),
        boxes=_floats(boxes, 4),
        box_target=_integers(box_target),
        masks=torch.from_numpy(np.stack(masks)) if masks else None,
        mask_target=_integers(mask_target),
        expressions=expressions,
        expression_target=_integers(expression_target),
        tags=_integers(record["tags"]) if "tags" in record else None,
    )


def decode_segmentation(segmentation: list | dict, height: int, width: int) -> np.ndarray:
    """The mask (height, width) bool of COCO polygons [[x, y, x, y, ...], ...] or of run lengths {"size", "counts"}.

    Raises ValueError when the run lengths are of another size or damaged.
    """
    if isinstance(segmentation, list):
        if not segmentation:
            return np.zeros((height, width), dtype=bool)
        runs = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    else:
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"a mask of {segmentation['size'][1]} x {segmentation['size'][0]} pixels")
        runs = segmentation
        is_plain = isinstance(segmentation["counts"], list)
        # Of compressed ones that end early the decoder leaves the last pixels as they were in memory.
        pixels = sum(segmentation["counts"] if is_plain else _lengths(segmentation["counts"]))
        if pixels != height * width:
            raise ValueError(f"run lengths of {pixels} pixels")
        if is_plain:
            runs = coco_mask.frPyObjects(segmentation, height, width)
    return coco_mask.decode(runs).astype(bool)


def _lengths(counts: str | bytes) -> list[int]:
    try:
        return parse_counts(counts).tolist()
    except ValueError as error:
        raise ValueError("incomplete run lengths") from error


def encode_mask(mask: np.ndarray) -> dict:
    """COCO's compressed run lengths {"size": [h, w], "counts": str} of a mask (H, W) bool."""
    runs = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": runs["counts"].decode("ascii")}


def _decoded(record: dict, annotation: dict) -> np.ndarray:
    height, width = record["height"], record["width"]
    try:
        return decode_segmentation(annotation["segmentation"], height, width)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ValueError(
            f"{record.get('file_name')}, annotation {annotation.get('id')} (image {record.get('image_id')}): expected "
            f"a mask of {width} x {height} pixels; found {error}. Write the label file again from this image's masks."
        ) from error


def _floats(values: list, width: int) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(-1, width)


def _integers(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)
