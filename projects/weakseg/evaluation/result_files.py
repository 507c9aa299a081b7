"""Files of predictions, for splits whose truth is with a test server."""

from __future__ import annotations

import logging
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from numpy import ndarray

from weakseg.data.convert.voc import voc_palette
from weakseg.evaluation.gather import gather_by_image
from weakseg.evaluation.mean_iou import predicted_class_map
from weakseg.labels.label_file import read_label_file
from weakseg.safe_io import atomic_write, write_json, write_png

logger = logging.getLogger(__name__)


class ResultWriter(DatasetEvaluator):
    """Writes what the results hold below `output_folder`, and gives no metric:

    instances.json: COCO's list of boxes and masks;
    panoptic.json and panoptic/NAME.png: COCO's panoptic format, ids as R + 256 G + 65536 B;
    results/VOC2012/Segmentation/<comp>_test_cls/NAME.png and <comp>.tgz: VOC's class maps (background 0, things 1..T),
    where there is one class of stuff; semantic/NAME.png with the class indices 0..C-1 for other data sets.

    Every process writes the PNGs of its images, the main process the rest. competition: "comp6" of VOC's test server is
    for any training data, "comp5" for VOC's alone.
    """

    def __init__(self, metadata: Metadata, output_folder: str | Path, *, competition: str = "comp6"):
        self._folder = Path(output_folder)
        self._labels = read_label_file(metadata.label_file)
        self._names = {image["id"]: f"{Path(image['file_name']).stem}.png" for image in self._labels.images}
        if len(set(self._names.values())) < len(self._names):
            raise ValueError(
                f"{metadata.label_file}: expected images of different names, as result files are named after them; "
                "found equal names in different folders. Rename the images."
            )
        self._category_ids = {index: category_id for category_id, index in self._labels.class_index.items()}
        self._competition = competition
        num_classes = len(self._category_ids)
        self._is_voc = self._labels.num_stuff == 1
        semantic = f"results/VOC2012/Segmentation/{competition}_test_cls" if self._is_voc else "semantic"
        self._semantic_folder = self._folder / semantic
        stored_classes = [*range(1, num_classes), 0] if self._is_voc else range(num_classes)
        self._stored_classes = np.array(stored_classes, np.uint8)
        self.reset()

    def reset(self) -> None:
        self._rows: list[tuple[Any, dict[str, list[dict]]]] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for sample, result in zip(inputs, outputs):
            image_id = sample["image_id"]
            rows = {}
            if "instances" in result:
                rows["instances"] = [
                    {**instance, "category_id": self._category_ids[instance["category_id"]]}
                    for instance in instances_to_coco_json(result["instances"].to("cpu"), image_id)
                ]
            if "panoptic_seg" in result:
                rows["panoptic"] = self._write_panoptic(image_id, result)
            if "panoptic_seg" in result or "sem_seg" in result:
                rows["semantic"] = self._write_semantic(image_id, result)
            self._rows.append((image_id, rows))

    def evaluate(self) -> dict | None:
        rows_of_images = gather_by_image(self._rows, list(self._names))
        if rows_of_images is None:
            return None
        rows = {
            kind: [row for image in rows_of_images for row in image[kind]]
            for kind in ("instances", "panoptic", "semantic")
            if all(kind in image for image in rows_of_images)
        }
        if "instances" in rows:
            write_json(self._folder / "instances.json", rows["instances"])
        if "panoptic" in rows:
            content = {
                "images": self._labels.images,
                "categories": self._labels.categories,
                "annotations": rows["panoptic"],
            }
            write_json(self._folder / "panoptic.json", content)
        if "semantic" in rows and self._is_voc:
            with atomic_write(self._folder / f"{self._competition}.tgz") as path, tarfile.open(path, "w:gz") as archive:
                for row in rows["semantic"]:
                    png = self._semantic_folder / row["file_name"]
                    archive.add(png, png.relative_to(self._folder))
        logger.info(
            "No truth to compare with: no metric. Wrote %s results of %d images to %s.",
            ", ".join(rows),
            len(rows_of_images),
            self._folder,
        )
        return {}

    def _write_panoptic(self, image_id, result: dict) -> list[dict]:
        id_map, segments_info = result["panoptic_seg"]
        id_map = id_map.cpu().numpy()
        name = self._names[image_id]
        write_png(self._folder / "panoptic" / name, ids_to_rgb(id_map))
        segments = [
            {**segment, "category_id": self._category_ids[segment["category_id"]]}
            for segment in segments_with_area(id_map, segments_info)
        ]
        return [{"image_id": image_id, "file_name": name, "segments_info": segments}]

    def _write_semantic(self, image_id, result: dict) -> list[dict]:
        classes = predicted_class_map(result, len(self._category_ids))
        name = self._names[image_id]
        write_png(self._semantic_folder / name, self._stored_classes[classes], voc_palette())
        return [{"file_name": name}]


def ids_to_rgb(id_map: ndarray) -> ndarray:
    """Ids (H, W) below 2^24 as colours (H, W, 3) uint8, id = R + 256 G + 65536 B."""
    return (id_map.astype(np.int64)[..., None] >> np.array([0, 8, 16]) & 255).astype(np.uint8)


def segments_with_area(id_map: ndarray, segments_info: list[dict]) -> list[dict]:
    """The segments of a panoptic result as {id, category_id, area}, area in pixels of the id map (H, W)."""
    areas = dict(zip(*(values.tolist() for values in np.unique(id_map, return_counts=True))))
    return [
        {"id": segment["id"], "category_id": segment["category_id"], "area": areas.get(segment["id"], 0)}
        for segment in segments_info
    ]
