"""Small stand-ins that many tests share: rendered data sets, shrunk configs, batches."""

from pathlib import Path

import torch
from detectron2.config import CfgNode

from weakseg.data.rendered import render_data_set
from weakseg.engine.defaults import load_config
from weakseg.labels import LabelFile, WeakLabels, write_label_file

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"

SHRINK = {
    "MODEL.DEVICE": "cpu",
    "MODEL.BACKBONE.WEIGHTS": "",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.SWIN.EMBED_DIM": 16,
    "MODEL.SWIN.DEPTHS": (1, 1, 2, 1),
    "MODEL.SWIN.NUM_HEADS": (1, 2, 4, 8),
    "MODEL.SWIN.DROP_PATH_RATE": 0.0,
    "MODEL.POINT2MASK.HIDDEN_DIM": 32,
    "MODEL.POINT2MASK.FFN_DIM": 32,
    "MODEL.POINT2MASK.NUM_HEADS": 4,
    "MODEL.POINT2MASK.ENC_LAYERS": 1,
    "MODEL.POINT2MASK.DEC_LAYERS": 2,
    "MODEL.POINT2MASK.NUM_QUERIES": 10,
    "MODEL.POINT2MASK.DROPOUT": 0.0,
    "MODEL.POINT2MASK.THING_LAYERS": 1,
    "MODEL.POINT2MASK.STUFF_LAYERS": 1,
    "MODEL.POINT2MASK.SEMANTIC_LAYERS": 1,
    "MODEL.POINT2MASK.EMBED_DIM": 8,
    "MODEL.POINT2MASK.LOSS_RAMP_ITERS": 0,
    "MODEL.POINT2MASK.TEST.TOPK": 5,
    "MODEL.SPML.EMBEDDING_DIM": 8,
    "MODEL.SPML.KMEANS.GRID": (3, 3),
    "MODEL.SPML.INPUT.CROP_SIZE": 64,
    "MODEL.SPML.TEST.IMAGE_SIZE": 64,
    "MODEL.SPML.TEST.CROP_SIZE": 64,
    "MODEL.SPML.TEST.STRIDE": 64,
    "MODEL.SPML.TEST.KMEANS_GRID": (3, 3),
    "INPUT.MIN_SIZE_TRAIN": (80,),
    "INPUT.MIN_SIZE_TEST": 80,
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 2,
    "SEED": 1,
}
"""Config keys of a network that takes a training step in well under a second."""


def scenes(folder: Path, count: int = 4, size: int = 64) -> Path:
    """A label file of rendered scenes; its images lie in `folder`."""
    return render_data_set(folder, "train", count=count, size=size)


def shrunk_config(config_file: str | Path, label_file: Path, output: Path, **changes) -> CfgNode:
    """The config, shrunk, on the data of `label_file`. Keys of `changes` have __ for the dots."""
    values = SHRINK | {
        "DATASETS.TRAIN": (str(label_file),),
        "DATASETS.TEST": (str(label_file),),
        "DATASETS.IMAGE_ROOT": str(label_file.parent),
        "OUTPUT_DIR": str(output),
    }
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    cfg = load_config(config_file)
    cfg.merge_from_list([word for pair in values.items() for word in pair])
    return cfg


def classes_only(path: Path, num_things: int, num_stuff: int, *, background: bool = False) -> Path:
    """A label file with class names and nothing else. background: it is the last class."""
    categories = [
        {"id": k + 1, "name": f"class {k}", "isthing": int(k < num_things)} for k in range(num_things + num_stuff)
    ]
    if background:
        categories[-1]["name"] = "background"
    write_label_file(path, LabelFile(categories, [], {}))
    return path


def point_labels(size: tuple[int, int], rows: list[tuple[float, float, int]]) -> WeakLabels:
    """One target a row (x, y, class)."""
    return WeakLabels(
        image_size=size,
        classes=torch.tensor([row[2] for row in rows], dtype=torch.int64),
        is_crowd=torch.zeros(len(rows), dtype=torch.bool),
        points=torch.tensor([row[:2] for row in rows], dtype=torch.float32).reshape(-1, 2),
        point_target=torch.arange(len(rows)),
        point_positive=torch.ones(len(rows), dtype=torch.bool),
    )
