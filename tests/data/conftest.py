"""A small data set on disk: random pictures of two sizes, and a label file with every kind of label."""

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.config import get_cfg

from weakseg.config import add_weakseg_config

# Two things with a stuff class between them, ids in no order: contiguous classes are cat 0, dog 1, grass 2.
CATEGORIES = [
    {"id": 7, "name": "cat", "isthing": 1, "color": [250, 10, 20]},
    {"id": 5, "name": "grass", "isthing": 0},
    {"id": 3, "name": "dog", "isthing": 1},
]


def annotation(number: int, image_id: int, category_id: int, x: float, y: float) -> dict:
    """A target whose box is 8 x 6 pixels around (x, y), with every kind of label."""
    left, top = x - 4, y - 3
    corners = [left, top, left + 8, top, left + 8, top + 6, left, top + 6]
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "iscrowd": 0,
        "bbox": [left, top, 8, 6],
        "area": 48,
        "segmentation": [corners],
        "point_coords": [[x, y]],
        "point_labels": [1],
        "scribbles": [[[x, y], [x + 2, y + 1]]],
        "expressions": [f"target {number}"],
    }


@pytest.fixture
def make_set(tmp_path):
    """make_set(count, name, change) -> path of a label file over `count` pictures in tmp_path / "images".

    Pictures are 40 x 30 pixels (every third 30 x 40), with three targets each. `change(content)` edits the file's
    content before it is written.
    """

    def make(count: int = 6, name: str = "labels.json", change=None) -> Path:
        (tmp_path / "images").mkdir(exist_ok=True)
        images, annotations = [], []
        for i in range(count):
            generator = np.random.default_rng(i)
            width, height = (30, 40) if i % 3 == 2 else (40, 30)
            pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), pixels)
            images.append({"id": 100 + i, "file_name": f"{i}.png", "height": height, "width": width, "tags": [7, 3, 5]})
            for k, category in enumerate((3, 7, 5)):
                x, y = generator.integers(5, 25, 2).tolist()
                annotations.append(annotation(10 * i + k + 1, 100 + i, category, x + 0.25, y + 0.75))
        content = {"categories": copy.deepcopy(CATEGORIES), "images": images, "annotations": annotations}
        if change is not None:
            change(content)
        (tmp_path / name).write_text(json.dumps(content))
        return tmp_path / name

    return make


@pytest.fixture
def cfg(tmp_path):
    cfg = get_cfg()
    add_weakseg_config(cfg)
    cfg.DATASETS.IMAGE_ROOT = str(tmp_path / "images")
    cfg.INPUT.MIN_SIZE_TRAIN = (24, 30, 36)
    cfg.INPUT.MAX_SIZE_TRAIN = 60
    cfg.INPUT.MIN_SIZE_TEST = 24
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SEED = 5
    return cfg
