"""The dense truth of a data set, decoded from its label file one image at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from detectron2.data.catalog import Metadata
from numpy import ndarray
from pycocotools import mask as rle_tools

from weakseg.evaluation.panoptic_quality import TruthSegment
from weakseg.labels.build import decode_segmentation, encode_mask
from weakseg.labels.label_file import read_label_file
from weakseg.labels.run_lengths import id_map_of_runs, run_lengths


class Truth:
    """What the evaluators compare with. One object serves all evaluators of a data set: the file is read once, and an
    image that several of them ask for in turn is decoded once."""

    def __init__(self, metadata: Metadata):
        self.path = Path(metadata.label_file)
        self.class_names: list[str] = list(metadata.stuff_classes)
        self.ignore_label: int = metadata.ignore_label
        labels = read_label_file(self.path)
        self.num_things = labels.num_things
        self.num_classes = labels.num_things + labels.num_stuff
        if len(self.class_names) != self.num_classes:
            raise ValueError(
                f"{self.path}: expected the {len(self.class_names)} classes of the registered data set; "
                f"found {self.num_classes}. Register the file under a name of its own."
            )
        self._labels = labels
        self._images = {image["id"]: image for image in labels.images}
        self._last: tuple[object, tuple[ndarray, list[TruthSegment]]] | None = None

    @property
    def image_ids(self) -> list:
        """Ids of all images, in file order: the order in which sums over images are taken."""
        return list(self._images)

    def image_size(self, image_id) -> tuple[int, int]:
        """(H, W) in pixels."""
        image = self._image(image_id)
        return image["height"], image["width"]

    def panoptic(self, image_id) -> tuple[ndarray, list[TruthSegment]]:
        """Id map (H, W) int32, read-only, 0 where no segment is; segments in file order with ids 1..N. Raises
        ValueError when segments overlap."""
        if self._last is None or self._last[0] != image_id:
            self._last = image_id, self._decode(image_id)
        return self._last[1]

    def class_map(self, image_id) -> ndarray:
        """Class of each pixel (H, W) int64, `ignore_label` where no segment is."""
        id_map, segments = self.panoptic(image_id)
        return np.array([self.ignore_label, *(segment.class_index for segment in segments)], np.int64)[id_map]

    def things(self, image_id) -> list[dict]:
        """The thing annotations of an image as COCO dicts of category_id (the class 0..T-1), segmentation, area, bbox
        (x, y, width, height) and iscrowd. Area and box are those of the mask where the file has none."""
        things = []
        for annotation in self._annotations(image_id):
            class_index = self._labels.class_index[annotation["category_id"]]
            if class_index < self.num_things:
                thing = {key: annotation[key] for key in ("segmentation", "area", "bbox") if key in annotation}
                thing |= {"category_id": class_index, "iscrowd": annotation.get("iscrowd", 0)}
                if not {"area", "bbox"} <= thing.keys():
                    rle = encode_mask(decode_segmentation(thing["segmentation"], *self.image_size(image_id)))
                    thing = {"area": float(rle_tools.area(rle)), "bbox": rle_tools.toBbox(rle).tolist()} | thing
                things.append(thing)
        return things

    def _decode(self, image_id) -> tuple[ndarray, list[TruthSegment]]:
        annotations = self._annotations(image_id)
        runs = [self._runs(annotation) for annotation in annotations]
        id_map = id_map_of_runs(runs, *self.image_size(image_id))
        if np.count_nonzero(id_map) != sum(int(run[1::2].sum()) for run in runs):
            raise ValueError(
                f"{self.path}: expected segments that share no pixel; found overlapping ones in image {image_id}. "
                "Use a panoptic label file, or evaluate the data set as instances."
            )
        id_map.flags.writeable = False
        classes = [self._labels.class_index[annotation["category_id"]] for annotation in annotations]
        crowds = [bool(annotation.get("iscrowd", 0)) for annotation in annotations]
        return id_map, [TruthSegment(*segment) for segment in zip(range(1, len(runs) + 1), classes, crowds)]

    def _runs(self, annotation: dict) -> ndarray:
        try:
            return run_lengths(annotation["segmentation"], *self.image_size(annotation["image_id"]))
        except ValueError as error:
            raise ValueError(
                f"{self.path}, annotation {annotation['id']} (image {annotation['image_id']}): {error} "
                "Write the label file again from the masks of this image."
            ) from error

    def _annotations(self, image_id) -> list[dict]:
        annotations = self._labels.annotations.get(image_id, [])
        for annotation in annotations:
            if "segmentation" not in annotation:
                raise ValueError(
                    f"{self.path}: expected a mask for every annotation; found none for annotation {annotation['id']} "
                    f"of image {image_id}. Evaluate on a file with masks."
                )
        return annotations

    def _image(self, image_id) -> dict:
        if image_id not in self._images:
            raise ValueError(
                f"{self.path}: expected predictions of its images only; found one of image {image_id}. "
                "Evaluate with the loader of the same data set."
            )
        return self._images[image_id]
