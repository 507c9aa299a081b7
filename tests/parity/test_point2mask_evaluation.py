"""Panoptic quality, mean IoU and result files of Point2Mask (card section 7) equal the published evaluation."""

import numpy as np
import torch
from detectron2.data.catalog import Metadata

from parity.reference import Reference, reference_files
from weakseg.evaluation import (
    MeanIoUEvaluator,
    PanopticCounts,
    PanopticEvaluator,
    Truth,
    class_qualities,
    panoptic_counts,
)
from weakseg.evaluation.result_files import ids_to_rgb, segments_with_area
from weakseg.labels import LabelFile, encode_mask, write_label_file


def label_file(folder, ref, images, things, classes):
    """The recorded truth as a label file; the category ids are the recorded ones."""
    category_ids = ref["category_ids"].tolist()
    categories = [{"id": id, "name": str(c), "isthing": int(c < things)} for c, id in enumerate(category_ids)]
    image_rows, annotations = [], {}
    for image in range(images):
        id_map = ref[f"gt{image}"]
        height, width = id_map.shape
        image_rows.append({"id": image, "file_name": f"{image}.jpg", "height": height, "width": width})
        annotations[image] = [
            {
                "id": f"{image}/{segment_id}",
                "image_id": image,
                "category_id": category_ids[class_index],
                "iscrowd": crowd,
                "area": area,
                "segmentation": encode_mask(id_map == segment_id),
            }
            for segment_id, class_index, area, crowd in ref[f"segments{image}"].tolist()
        ]
    write_label_file(folder / "labels.json", LabelFile(categories, image_rows, annotations))
    names = [str(c) for c in range(classes)]
    return Metadata(label_file=str(folder / "labels.json"), stuff_classes=names, ignore_label=255)


def panoptic_result(pan, classes):
    """The published result map (value = id * 1000 + class, class C is void) as id map and segments."""
    id_map = np.where(pan % 1000 == classes, 0, pan)
    return id_map, [{"id": i, "category_id": i % 1000} for i in np.unique(id_map).tolist() if i]


@reference_files("point2mask", "unit_pq")
def test_evaluation(path, tmp_path):
    with Reference(path) as ref:
        things, stuff = ref["T_U"].tolist()
        classes, images = things + stuff, len([name for name in ref.keys() if name.startswith("gt")])
        truth = Truth(label_file(tmp_path, ref, images, things, classes))
        panoptic, semantic = PanopticEvaluator(truth), MeanIoUEvaluator(truth)
        counts = PanopticCounts.zeros(classes)
        for image in range(images):
            id_map, segments = panoptic_result(ref[f"pan{image}"], classes)
            if f"png{image}" in ref:
                ref.compare(f"png{image}", ids_to_rgb(id_map))
            rows = [
                (row["id"], row["category_id"], row["area"], row["category_id"] < things)
                for row in segments_with_area(id_map, segments)
            ]
            ref.compare(f"pred_segments{image}", np.array(rows, int).reshape(-1, 4))
            result = {"panoptic_seg": (torch.from_numpy(id_map), segments), "sem_seg": ref.tensor(f"semantic{image}")}
            panoptic.process([{"image_id": image}], [result])
            semantic.process([{"image_id": image}], [result])
            class_of = {segment["id"]: segment["category_id"] for segment in segments}
            counts += panoptic_counts(id_map, class_of, *truth.panoptic(image), num_classes=classes)

        scores = panoptic.evaluate()["panoptic_seg"]
        order = [f"{quality}{group}" for group in ("", "_th", "_st") for quality in ("PQ", "SQ", "RQ")]
        ref.compare("metrics", [scores[name] for name in order], rtol=1e-6, atol=1e-6)
        ref.compare("confusion", semantic._confusion)
        iou = semantic.evaluate()["sem_seg"]
        ref.compare("iou", [iou.get(f"IoU-{c}", 0.0) / 100 for c in range(classes)], rtol=1e-6, atol=1e-6)
        ref.compare("classwise", np.nan_to_num(class_qualities(counts)) / 100, rtol=1e-6, atol=1e-6)
