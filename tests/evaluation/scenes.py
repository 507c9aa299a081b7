"""Small data sets with noisy predictions for the evaluators' tests, and the worker of those with several processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from detectron2.data.catalog import Metadata
from detectron2.data.samplers import InferenceSampler
from detectron2.structures import Boxes, Instances

from weakseg.engine.launch import leave_process_group
from weakseg.evaluation import InstanceEvaluator, MeanIoUEvaluator, PanopticEvaluator, ResultWriter, Truth
from weakseg.labels import LabelFile, encode_mask, write_label_file
from weakseg.safe_io import write_json

THINGS, STUFF = 3, 2
SIZE = (24, 32)
NAMES = ["cup", "pen", "key", "wood", "wall"]
CATEGORY_IDS = [11, 12, 15, 20, 21]


def write_label_map(folder: Path, id_maps: dict, segments: dict, names=NAMES, category_ids=CATEGORY_IDS, things=THINGS):
    """A label file from id maps (image id -> (H, W)) and segments (image id -> list of (id, class, crowd)), and its
    metadata."""
    categories = [
        {"id": category_id, "name": name, "isthing": int(index < things)}
        for index, (category_id, name) in enumerate(zip(category_ids, names))
    ]
    images, annotations = [], {}
    for image_id, id_map in id_maps.items():
        height, width = id_map.shape
        images.append({"id": image_id, "file_name": f"photos/{image_id}.jpg", "height": height, "width": width})
        annotations[image_id] = [
            {
                "id": f"{image_id}/{segment_id}",
                "image_id": image_id,
                "category_id": category_ids[class_index],
                "iscrowd": int(crowd),
                "segmentation": encode_mask(id_map == segment_id),
            }
            for segment_id, class_index, crowd in segments[image_id]
        ]
    path = folder / "labels.json"
    write_label_file(path, LabelFile(categories, images, annotations))
    return Metadata(label_file=str(path), stuff_classes=list(names), ignore_label=255)


def blocks(rng: np.random.Generator, count: int) -> np.ndarray:
    """An id map of 4 x 4 pixel blocks with ids 0..count."""
    return rng.integers(0, count + 1, (SIZE[0] // 4, SIZE[1] // 4)).repeat(4, 0).repeat(4, 1)


def write_scene(folder: Path, num_images: int = 23, crowds: bool = True) -> Metadata:
    """Truth of images with ids 3, 10, 17, ...: up to six segments of random classes."""
    rng = np.random.default_rng(5)
    id_maps, segments = {}, {}
    for image_id in range(3, 3 + 7 * num_images, 7):
        id_maps[image_id] = blocks(rng, 6)
        classes = rng.integers(0, THINGS + STUFF, 6)
        present = [int(i) for i in np.unique(id_maps[image_id]) if i > 0]
        segments[image_id] = [(i, int(classes[i - 1]), crowds and bool(rng.random() < 0.15)) for i in present]
    return write_label_map(folder, id_maps, segments)


def noisy_prediction(truth: Truth, image_id) -> dict:
    """A result with all keys: the truth with other classes here and there, and blocks of other segments."""
    rng = np.random.default_rng(image_id)
    id_map, segments = truth.panoptic(image_id)
    noise = blocks(rng, len(segments))
    predicted = np.where(blocks(rng, 3) == 0, noise, id_map).astype(np.int32)
    classes = {s.id: int(rng.integers(0, 5)) if rng.random() < 0.2 else s.class_index for s in segments}
    ids = [int(i) for i in np.unique(predicted) if i > 0]
    infos = [{"id": i, "isthing": classes[i] < THINGS, "category_id": classes[i]} for i in ids]
    class_map = np.array([STUFF + THINGS - 1, *(classes[s.id] for s in segments)])[predicted]
    things = [i for i in ids if classes[i] < THINGS]
    return {
        "panoptic_seg": (torch.from_numpy(predicted), infos),
        "sem_seg": torch.from_numpy(class_map),
        "instances": instances(
            [predicted == i for i in things], [classes[i] for i in things], rng.random(len(things)).round(1)
        ),
    }


def instances(masks: list[np.ndarray], classes: list[int], scores) -> Instances:
    """Detectron2 instances of masks (H, W) bool with the masks' boxes."""
    boxes = []
    for mask in masks:
        y, x = np.nonzero(mask)
        boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
    result = Instances(SIZE)
    result.pred_boxes = Boxes(torch.tensor(np.array(boxes).reshape(-1, 4), dtype=torch.float32))
    result.pred_classes = torch.tensor(classes, dtype=torch.int64)
    result.scores = torch.tensor(np.asarray(scores, np.float64))
    result.pred_masks = torch.from_numpy(np.array(masks, bool).reshape(-1, *SIZE))
    return result


def evaluate(evaluator, truth: Truth, image_ids) -> dict | None:
    """The evaluator's result for the noisy predictions of these images, one by one."""
    evaluator.reset()
    for image_id in image_ids:
        evaluator.process([{"image_id": image_id}], [noisy_prediction(truth, image_id)])
    return evaluator.evaluate()


def evaluate_all(metadata: Metadata, folder: Path, image_ids) -> dict | None:
    """Results of all evaluators by name; result files below `folder`."""
    truth = Truth(metadata)
    results = {
        "panoptic": evaluate(PanopticEvaluator(truth), truth, image_ids),
        "semantic": evaluate(MeanIoUEvaluator(truth), truth, image_ids),
        "instance": evaluate(InstanceEvaluator(truth), truth, image_ids),
        "files": evaluate(ResultWriter(metadata, folder), truth, image_ids),
    }
    return None if results["panoptic"] is None else results


def worker(rank: int, processes: int, metadata: dict, folder: str) -> None:
    """One of several processes: evaluates its share, then shares with faults; writes what it found to `folder`."""
    torch.set_num_threads(1)
    folder = Path(folder)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes
    )
    metadata = Metadata(**metadata)
    truth = Truth(metadata)
    ids = truth.image_ids
    mine = [ids[index] for index in InferenceSampler._get_local_indices(len(ids), processes, rank)]
    results = evaluate_all(metadata, folder / "files", mine)
    faults = {
        "lost": [image_id for image_id in mine if image_id != ids[-1]],
        "doubled": [*mine, ids[0]] if rank == processes - 1 else mine,
    }
    messages = {}
    for fault, shares in faults.items():
        for evaluator in (PanopticEvaluator, MeanIoUEvaluator, InstanceEvaluator):
            try:
                evaluate(evaluator(truth), truth, shares)
            except ValueError as error:
                messages[f"{fault} {evaluator.__name__}"] = str(error)
    write_json(folder / f"rank{rank}.json", {"results": results, "messages": messages})
    leave_process_group()
