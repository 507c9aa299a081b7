"""A valid label file with every kind of entry, and a way to write it with a change."""

import copy

from weakseg.safe_io import write_json

CONTENT = {
    "weakseg_version": 1,
    "info": {"note": "x"},
    "categories": [
        {"id": 5, "name": "sky", "isthing": 0, "color": [0, 0, 255]},
        {"id": 3, "name": "cat"},
        {"id": 9, "name": "road", "isthing": 0},
        {"id": 1, "name": "dog", "isthing": 1},
    ],
    "images": [
        {"id": 17, "file_name": "a.jpg", "height": 480, "width": 640, "tags": [3, 5]},
        {"id": 4, "file_name": "b.jpg", "height": 10, "width": 20},
    ],
    "annotations": [
        {"id": 1, "image_id": 4, "category_id": 1, "point_coords": [[0, 0], [19.99, 9.5]], "point_labels": [1, 0]},
        {"id": 812, "image_id": 17, "category_id": 3, "bbox": [1, 2, 30, 40.5], "iscrowd": 0, "area": 7.5},
        {"id": 2, "image_id": 17, "category_id": 5, "scribbles": [[[1, 2], [3, 4]]], "expressions": ["the sky"]},
        {"id": 3, "image_id": 4, "category_id": 3, "segmentation": [[0, 0, 5, 0, 5, 5]]},
        {"id": 6, "image_id": 4, "category_id": 3, "segmentation": {"size": [10, 20], "counts": [150, 50]}, "bbox": []},
    ],
}


def written(tmp_path, change=lambda content: None):
    """labels.json in `tmp_path` with CONTENT, after `change` acted on a copy of it."""
    content = copy.deepcopy(CONTENT)
    change(content)
    write_json(tmp_path / "labels.json", content)
    return tmp_path / "labels.json"
