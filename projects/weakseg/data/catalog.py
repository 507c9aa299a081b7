"""Data sets by name: a label file and the folder of its images, as Detectron2 records and metadata."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.structures import BoxMode
from detectron2.utils.colormap import colormap

from weakseg.labels.label_file import LabelFile, read_label_file
from weakseg.safe_io import resolve_inside

IGNORE_LABEL = 255
EVALUATOR_TYPES = {"panoptic": "weakseg_panoptic", "instance": "weakseg_instance", "sem_seg": "weakseg_sem_seg"}

_COPIED = ("id", "bbox", "segmentation", "area", "point_coords", "point_labels", "scribbles", "expressions")


def register_label_file(
    name: str,
    label_file: str | Path,
    image_root: str | Path,
    evaluator_type: str | None = "weakseg_panoptic",
    *,
    remedy: str = "Check the path.",
) -> None:
    """Register a data set under `name`. Nothing is read before it is asked for, so the files need not exist yet.

    evaluator_type: a value of `EVALUATOR_TYPES`; None decides at the first reading: panoptic when the file has stuff
    classes, else instance. remedy: what to do when the label file is missing.
    """
    DatasetCatalog.register(name, lambda: _load_records(name))
    metadata = MetadataCatalog.get(name)
    metadata.set(label_file=str(label_file), image_root=str(image_root), ignore_label=IGNORE_LABEL, remedy=remedy)
    if evaluator_type is not None:
        metadata.set(evaluator_type=evaluator_type)


def dataset_names(cfg, split: str) -> list[str]:
    """The data sets of `DATASETS.TRAIN` ("train") or `DATASETS.TEST` ("test").

    A name that ends in .json is the path of a label file; it is registered here with `DATASETS.IMAGE_ROOT`, or with the
    file's own folder where that is "".
    """
    key = {"train": "TRAIN", "test": "TEST"}[split]
    names = list(cfg.DATASETS[key])
    for name in names:
        if name.endswith(".json"):
            _register_path(name, cfg.DATASETS.IMAGE_ROOT, key)
        elif name not in DatasetCatalog and MetadataCatalog.get(name).get("thing_classes") is None:
            raise ValueError(
                f"DATASETS.{key}: expected registered data sets or label files (*.json); found {name!r}. "
                "Correct the name, or give the path of a label file; registered by WeakSeg: "
                f"{', '.join(n for n in DatasetCatalog if n.startswith('weakseg_'))}."
            )
    return names


def dataset_metadata(name: str) -> Metadata:
    """Metadata of a data set; classes and colours are read from its label file when first asked for.

    thing_classes: T names; stuff_classes: the names of all C = T + U classes in class order; thing_colors,
    stuff_colors: their RGB colours; thing_dataset_id_to_contiguous_id: to 0..T-1; stuff_dataset_id_to_contiguous_id:
    stuff only, to T..C-1; has_truth: some annotation has a mask; label_file, image_root, evaluator_type, ignore_label.
    """
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") is None and metadata.get("label_file"):
        _fill_metadata(metadata, _read(metadata))
    return metadata


def class_counts(metadata: Metadata) -> tuple[int, int]:
    """Numbers of thing and of stuff classes (T, U); ValueError where there are none, or too many for class maps."""
    things, stuff = (metadata.get(f"{kind}_dataset_id_to_contiguous_id", {}) for kind in ("thing", "stuff"))
    if not things and not stuff:
        raise ValueError(
            f"{metadata.name}: expected metadata with thing_dataset_id_to_contiguous_id or "
            "stuff_dataset_id_to_contiguous_id; found neither. Register the data set with register_label_file."
        )
    if len(things) + len(stuff) > IGNORE_LABEL:
        raise ValueError(
            f"{metadata.name}: expected at most {IGNORE_LABEL} classes, as {IGNORE_LABEL} marks pixels of none; found "
            f"{len(things) + len(stuff)}. Leave classes out, or join some."
        )
    return len(things), len(stuff)


def metadata_of(cfg) -> Metadata:
    """Metadata that gives a run its classes: of the first training set, else of the first test set."""
    names = dataset_names(cfg, "train") or dataset_names(cfg, "test")
    if not names:
        raise ValueError("DATASETS.TRAIN and DATASETS.TEST: expected a data set that names the classes; found none.")
    return dataset_metadata(names[0])


def _register_path(path: str, image_root: str, key: str) -> None:
    if not Path(path).is_file():
        raise FileNotFoundError(f"DATASETS.{key}: expected a label file at {path}; found none. Check the path.")
    image_root = image_root or str(Path(path).parent)
    if path in DatasetCatalog:
        if MetadataCatalog.get(path).image_root == image_root:
            return
        DatasetCatalog.remove(path)
        MetadataCatalog.remove(path)
    register_label_file(path, path, image_root, evaluator_type=None)


def _read(metadata: Metadata) -> LabelFile:
    if not Path(metadata.label_file).is_file():
        raise FileNotFoundError(
            f"{metadata.name}: expected the label file {metadata.label_file}; found none. {metadata.remedy}"
        )
    return read_label_file(metadata.label_file)


def _fill_metadata(metadata: Metadata, labels: LabelFile) -> None:
    index_of = labels.class_index
    categories = sorted(labels.categories, key=lambda category: index_of[category["id"]])
    names = [category["name"] for category in categories]
    palette = colormap(rgb=True).astype(int).tolist()
    colors = [list(category.get("color", palette[i % len(palette)])) for i, category in enumerate(categories)]
    things = labels.num_things
    ids = [category["id"] for category in categories]
    if metadata.get("evaluator_type") is None:
        metadata.set(evaluator_type=EVALUATOR_TYPES["panoptic" if labels.num_stuff else "instance"])
    metadata.set(
        thing_classes=names[:things],
        stuff_classes=names,
        thing_colors=colors[:things],
        stuff_colors=colors,
        thing_dataset_id_to_contiguous_id={ids[i]: i for i in range(things)},
        stuff_dataset_id_to_contiguous_id={ids[i]: i for i in range(things, len(ids))},
        has_truth=any(a.get("segmentation") for annotations in labels.annotations.values() for a in annotations),
    )


def _load_records(name: str) -> list[dict]:
    """Detectron2 records of a data set, one an image, with everything that the label file says; see `gate`."""
    metadata = MetadataCatalog.get(name)
    labels = _read(metadata)
    _fill_metadata(metadata, labels)
    return [_record(image, labels, metadata) for image in labels.images]


def _record(image: dict, labels: LabelFile, metadata: Metadata) -> dict:
    class_of = labels.class_index
    record = {
        "file_name": str(resolve_inside(metadata.image_root, image["file_name"])),
        "image_id": image["id"],
        "height": image["height"],
        "width": image["width"],
        "annotations": [_annotation(annotation, class_of) for annotation in labels.annotations.get(image["id"], ())],
    }
    if "tags" in image:
        record["tags"] = [class_of[category] for category in image["tags"]]
    return record


def _annotation(annotation: dict, class_of: dict[int, int]) -> dict:
    copied = {key: annotation[key] for key in _COPIED if key in annotation}
    if "bbox" in copied:
        copied["bbox_mode"] = BoxMode.XYWH_ABS
    return {"category_id": class_of[annotation["category_id"]], "iscrowd": annotation.get("iscrowd", 0), **copied}


def label_file_name(split: str, kind: str, points: int = 1) -> str:
    """The file that datasets/prepare_*.py write; one with several points a segment stands beside the others."""
    return f"{split}_{kind}_p{points}.json" if points > 1 else f"{split}_{kind}.json"


def _register_builtin(root: Path) -> None:
    """Names of the usual data sets below `root`, with the label files that datasets/prepare_*.py write."""
    builtin = {
        "voc_2012": ("prepare_voc.py", "VOC2012/JPEGImages", ("train", "train_aug", "val"), tuple(EVALUATOR_TYPES)),
        "coco_2017": ("prepare_coco.py", "coco/{part}2017", ("train", "val"), ("panoptic", "instance")),
        "densepose_2014": (
            "prepare_densepose.py",
            "coco/{part}2014",
            ("train", "minival", "valminusminival"),
            ("sem_seg",),
        ),
    }
    sets = [
        (name, split, kind, 1)
        for name, (_, _, splits, kinds) in builtin.items()
        for split, kind in product(splits, kinds)
    ]
    # Ten points a target, as a part of Point2Mask's table is trained.
    sets += [("voc_2012", "train_aug", "panoptic", 10), ("coco_2017", "train", "panoptic", 10)]
    for name, split, kind, points in sets:
        script, images, *_ = builtin[name]
        file = label_file_name(split, kind, points)
        register_label_file(
            f"weakseg_{name}_{Path(file).stem}",
            root / "weakseg" / name / file,
            root / images.format(part="train" if split == "train" else "val"),
            EVALUATOR_TYPES[kind],
            remedy=f"Make it with: python datasets/{script} --splits {split} --points {points}",
        )
    for split, length in product(("train", "train_aug"), (100, 80, 50, 30)):
        file = f"{split}_scribble.json" if length == 100 else f"{split}_scribble_{length}.json"
        path = root / "weakseg" / "voc_2012" / file
        register_label_file(
            f"weakseg_voc_2012_{Path(file).stem}",
            path,
            root / "VOC2012/JPEGImages",
            EVALUATOR_TYPES["sem_seg"],
            remedy="Make it with: python datasets/prepare_scribbles.py scribblesup --scribbles pascal_2012_scribble "
            f"--images {root}/VOC2012/JPEGImages --output {path} --length {length / 100}",
        )


_register_builtin(Path(os.environ.get("DETECTRON2_DATASETS", "datasets")))
