"""Small runs of SPML on rendered scenes: data with and without a background, region maps, configs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from torch import nn

from tiny import CONFIGS, scenes, shrunk_config
from weakseg.data.catalog import register_label_file
from weakseg.labels import WeakLabels, read_label_file, write_label_file
from weakseg.safe_io import write_png

SIZE = 48
BACKGROUND = 4
"""House index of the class "background" of `small_data`, where there is one."""


def small_data(folder: Path, *, background: bool, count: int = 4) -> Path:
    """A label file of scenes with six classes; `background`: the fifth is called so. Region maps of 16 squares lie in
    `folder`/regions."""
    path = scenes(folder, count=count, size=SIZE)
    if background:
        labels = read_label_file(path)
        categories = [
            {**category, "name": "background" if category["name"] == "grass" else category["name"]}
            for category in labels.categories
        ]
        write_label_file(path, replace(labels, categories=categories))
    squares = np.kron(np.arange(16, dtype=np.uint8).reshape(4, 4), np.ones((SIZE // 4, SIZE // 4), np.uint8))
    (folder / "regions").mkdir()
    for image in (folder / "train").glob("*.png"):
        write_png(folder / "regions" / image.name, squares)
    return path


def small_config(label_file: Path, output: Path, name: str = "voc_point", **changes) -> CfgNode:
    """A config of configs/spml, shrunk, for a few steps without a test set. Keys of `changes` have __ for the dots."""
    values = {
        "DATASETS__TEST": (),
        "INPUT__REGION_ROOT": str(label_file.parent / "regions"),
        "MODEL__RESNETS__DEPTH": 50,
        "MODEL__SPML__CLASSIFIER_DROPOUT": 0.0,
        "MODEL__SPML__PSEUDO__CRF": False,
        "MODEL__SPML__PSEUDO__WALK_STEPS": 2,
        "SOLVER__MAX_ITER": 3,
        "SOLVER__WARMUP_ITERS": 0,
    }
    return shrunk_config(CONFIGS / f"spml/{name}.yaml", label_file, output, **(values | changes))


@contextmanager
def registered(label_file: Path) -> Iterator[str]:
    """The name of a data set that is evaluated by its mean IoU."""
    name = f"semantic {label_file.parent}"
    register_label_file(name, label_file, label_file.parent, "weakseg_sem_seg")
    try:
        yield name
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def model_of(label_file: Path, output: Path, name: str = "voc_point", **changes) -> nn.Module:
    """A model with fresh weights, on the CPU."""
    torch.manual_seed(0)
    return build_model(small_config(label_file, output, name, **changes))


def sample_of(size: tuple[int, int], seed: int = 0, **evidence: np.ndarray) -> dict:
    """A sample of noise, with the label map of a few pixels of ordered classes 1 and 3."""
    image = np.random.default_rng(seed).integers(0, 256, (3, *size), dtype=np.uint8)
    label_map = np.full(size, 254, np.uint8)
    label_map[2:6, 2:9], label_map[-7:-3, -9:-4], label_map[0] = 1, 3, 255
    return {
        "image": torch.from_numpy(image),
        "height": size[0],
        "width": size[1],
        "file_name": "a/picture.png",
        "weak": WeakLabels(size, tags=torch.tensor([0, 2])),
        "evidence": {"label_map": label_map} | evidence,
    }
