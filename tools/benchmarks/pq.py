"""Panoptic quality: in memory, against the published panopticapi with the PNG files that it needs, both in one process.

The literal form follows panopticapi's description: predictions are written as RGB PNGs and a JSON, everything is read
back, and each image goes through dicts keyed by pairs of ids.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path

import numpy as np
from detectron2.data.catalog import Metadata
from PIL import Image
from pycocotools import mask as rle_tools

from benchmarks import BenchmarkError, add_growth, compare
from weakseg.evaluation.panoptic_quality import PanopticCounts, panoptic_counts, panoptic_quality
from weakseg.evaluation.truth import Truth
from weakseg.labels import encode_mask
from weakseg.safe_io import read_json, read_label_png, write_json

THINGS, STUFF = 80, 53
HELP = "panoptic quality against panopticapi's algorithm with its PNG files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pairs", type=int, default=15, help="timed pairs of runs")
    parser.add_argument(
        "--heights", type=int, nargs="+", default=[240, 480, 960], help="image heights; width is 4/3 of it"
    )
    parser.add_argument("--images", type=int, default=8, help="images of each size")
    parser.add_argument("--segments", type=int, default=12, help="segments an image")


def run(args: argparse.Namespace) -> list[dict]:
    """One row a size; the last adds by which power of the number of pixels either form grows."""
    rows = []
    for height in args.heights:
        width = height * 4 // 3
        with tempfile.TemporaryDirectory() as folder:
            scene = _Scene(Path(folder), height, width, args.images, args.segments)
            rows.append(compare(f"pq {width}x{height}", scene.literal, scene.ours, _check, pairs=args.pairs))
    return add_growth(rows, [height**2 for height in args.heights])


def _check(literal: dict[str, float], ours: dict[str, float]) -> None:
    for name, value in literal.items():
        if not math.isclose(value, ours[name], rel_tol=0, abs_tol=1e-9):
            raise ValueError(f"expected equal numbers of both forms; found {name} {value} and {ours[name]}.")


class _Scene:
    """Images cut into cells around random centres, one of them void and one a crowd; predicted are the cells of
    slightly moved centres, some with another class. The truth is written for both forms."""

    def __init__(self, folder: Path, height: int, width: int, images: int, segments: int):
        rng = np.random.default_rng(0)
        names = [f"class {index}" for index in range(THINGS + STUFF)]
        self.folder = folder
        self.metadata = Metadata(label_file=str(folder / "labels.json"), stuff_classes=names, ignore_label=255)
        self.predictions = []
        panoptic, annotations = [], []
        for image_id in range(images):
            centres = rng.uniform(0, [height, width], (segments, 2))
            classes = rng.integers(0, len(names), segments)
            truth = _cells(centres, height, width)
            truth[truth == 1] = 0
            Image.fromarray(_ids_to_rgb(truth)).save(folder / f"{image_id}.png")
            infos = [_segment(truth, k, int(classes[k - 1])) for k in range(2, segments + 1)]
            panoptic.append({"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": infos})
            annotations += [_annotation(truth, info, image_id) for info in infos]

            moved = _cells(centres + rng.normal(0, 0.02 * height, centres.shape), height, width)
            predicted = np.where(rng.random(segments) < 0.2, rng.permutation(classes), classes)
            self.predictions.append((moved, {k: int(predicted[k - 1]) for k in np.unique(moved).tolist()}))

        categories = [{"id": index, "name": name, "isthing": int(index < THINGS)} for index, name in enumerate(names)]
        size = {"height": height, "width": width}
        image_rows = [{"id": image_id, "file_name": f"{image_id}.jpg", **size} for image_id in range(images)]
        write_json(folder / "panoptic.json", {"categories": categories, "annotations": panoptic})
        labels = {"images": image_rows, "categories": categories, "annotations": annotations}
        write_json(folder / "labels.json", labels)

    def ours(self) -> dict[str, float]:
        truth = Truth(self.metadata)
        counts = PanopticCounts.zeros(truth.num_classes)
        for image_id, (id_map, classes) in enumerate(self.predictions):
            counts += panoptic_counts(id_map, classes, *truth.panoptic(image_id), num_classes=truth.num_classes)
        return panoptic_quality(counts, truth.num_things)

    def literal(self) -> dict[str, float]:
        annotations = []
        for image_id, (id_map, classes) in enumerate(self.predictions):
            name = f"prediction{image_id}.png"
            Image.fromarray(_ids_to_rgb(id_map)).save(self.folder / name)
            segments = [{"id": k, "category_id": class_index} for k, class_index in classes.items()]
            annotations.append({"image_id": image_id, "file_name": name, "segments_info": segments})
        (self.folder / "predictions.json").write_text(json.dumps({"annotations": annotations}))
        return _published_pq(self.folder)


def _segment(truth: np.ndarray, segment_id: int, class_index: int) -> dict:
    """A segment as in panoptic JSON; the one of id 2 is a crowd."""
    area = int((truth == segment_id).sum())
    return {"id": segment_id, "category_id": class_index, "area": area, "iscrowd": int(segment_id == 2)}


def _annotation(truth: np.ndarray, segment: dict, image_id: int) -> dict:
    """The same segment as in a label file."""
    rle = encode_mask(truth == segment["id"])
    ids = {"id": 1000 * image_id + segment["id"], "image_id": image_id}
    return {**segment, **ids, "bbox": rle_tools.toBbox(rle).tolist(), "segmentation": rle}


def _cells(centres: np.ndarray, height: int, width: int) -> np.ndarray:
    """1 + the nearest of the centres (y, x) of each pixel: (H, W) int32."""
    y, x = np.mgrid[:height, :width]
    distance = [(y - cy) ** 2 + (x - cx) ** 2 for cy, cx in centres]
    return np.argmin(distance, axis=0).astype(np.int32) + 1


def _ids_to_rgb(ids: np.ndarray) -> np.ndarray:
    rgb = np.zeros((*ids.shape, 3), np.uint8)
    for channel in range(3):
        rgb[..., channel] = ids // 256**channel % 256
    return rgb


def _rgb_to_ids(rgb: np.ndarray) -> np.ndarray:
    rgb = rgb.astype(np.uint32)
    return rgb[:, :, 0] + 256 * rgb[:, :, 1] + 256 * 256 * rgb[:, :, 2]


def _published_pq(folder: Path) -> dict[str, float]:
    truth = read_json(folder / "panoptic.json")
    predictions = {image["image_id"]: image for image in read_json(folder / "predictions.json")["annotations"]}
    stats = {category["id"]: {"tp": 0, "fp": 0, "fn": 0, "iou": 0.0} for category in truth["categories"]}
    for image in truth["annotations"]:
        prediction = predictions[image["image_id"]]
        truth_ids = _rgb_to_ids(read_label_png(folder / image["file_name"]))
        predicted_ids = _rgb_to_ids(read_label_png(folder / prediction["file_name"]))
        _count_image(stats, truth_ids, image["segments_info"], predicted_ids, prediction["segments_info"])
    results = {}
    for suffix, wanted in (("", (0, 1)), ("_th", (1,)), ("_st", (0,))):
        chosen = [stats[category["id"]] for category in truth["categories"] if category["isthing"] in wanted]
        chosen = [s for s in chosen if s["tp"] + s["fp"] + s["fn"]]
        if not chosen:
            raise BenchmarkError("--segments: expected things and stuff; found one kind only. Ask for more segments.")
        weights = [s["tp"] + 0.5 * s["fp"] + 0.5 * s["fn"] for s in chosen]
        results[f"PQ{suffix}"] = 100 * sum(s["iou"] / w for s, w in zip(chosen, weights)) / len(chosen)
        results[f"SQ{suffix}"] = 100 * sum(s["iou"] / s["tp"] if s["tp"] else 0.0 for s in chosen) / len(chosen)
        results[f"RQ{suffix}"] = 100 * sum(s["tp"] / w for s, w in zip(chosen, weights)) / len(chosen)
    return results


def _count_image(
    stats: dict[int, dict], truth_ids: np.ndarray, truth_info: list[dict], predicted_ids: np.ndarray, info: list[dict]
) -> None:
    """Add one image to the per-category counts."""
    truth = {segment["id"]: segment for segment in truth_info}
    predicted = {segment["id"]: segment for segment in info}
    for segment_id, count in zip(*np.unique(predicted_ids, return_counts=True)):
        if segment_id:
            predicted[segment_id]["area"] = count
    offset = 256**3
    pairs = truth_ids.astype(np.uint64) * offset + predicted_ids.astype(np.uint64)
    overlap = {}
    for pair, count in zip(*np.unique(pairs, return_counts=True)):
        overlap[(int(pair) // offset, int(pair) % offset)] = int(count)

    matched_truth, matched_predictions = set(), set()
    for (truth_id, predicted_id), count in overlap.items():
        if truth_id not in truth or predicted_id not in predicted or truth[truth_id]["iscrowd"]:
            continue
        category = truth[truth_id]["category_id"]
        if category != predicted[predicted_id]["category_id"]:
            continue
        on_void = overlap.get((0, predicted_id), 0)
        iou = count / (int(predicted[predicted_id]["area"]) + truth[truth_id]["area"] - count - on_void)
        if iou > 0.5:
            stats[category]["tp"] += 1
            stats[category]["iou"] += iou
            matched_truth.add(truth_id)
            matched_predictions.add(predicted_id)

    crowds = {}
    for truth_id, segment in truth.items():
        if segment["iscrowd"]:
            crowds[segment["category_id"]] = truth_id
        elif truth_id not in matched_truth:
            stats[segment["category_id"]]["fn"] += 1
    for predicted_id, segment in predicted.items():
        if predicted_id in matched_predictions:
            continue
        excused = overlap.get((0, predicted_id), 0)
        if segment["category_id"] in crowds:
            excused += overlap.get((crowds[segment["category_id"]], predicted_id), 0)
        if excused / int(segment["area"]) <= 0.5:
            stats[segment["category_id"]]["fp"] += 1
