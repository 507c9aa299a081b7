"""Prediction on one image: `WeakPredictor`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model

from weakseg.config import add_weakseg_config
from weakseg.config_merge import merge_content, merge_options
from weakseg.data.augmentation import build_augmentation
from weakseg.data.catalog import IGNORE_LABEL, class_counts, metadata_of
from weakseg.labels import WeakLabels, weak_labels
from weakseg.weights import load_exactly, read_checkpoint, some_names

_CLASS_KEYS = ("thing_classes", "stuff_classes", "thing_colors", "stuff_colors")
_REMEDY = "Use the config that the file was trained with, without options that change the network."


class WeakPredictor:
    """Like Detectron2's `DefaultPredictor`, for heads that take labels too, and from a checkpoint alone.

    `cfg` is the config as used; `metadata` has the names and colours of the classes.
    """

    def __init__(self, cfg: CfgNode):
        """cfg.MODEL.WEIGHTS: a checkpoint of exactly this model; its classes are those of the config's data sets.
        MODEL.BACKBONE.WEIGHTS is not read."""
        self._build(cfg, read_checkpoint(cfg.MODEL.WEIGHTS), cfg.MODEL.WEIGHTS)

    @classmethod
    def from_checkpoint(cls, path: str | Path, *, device: str | None = None, opts: Sequence[str] = ()) -> WeakPredictor:
        """From a checkpoint that training wrote: it carries its config and classes. device: default a GPU where there
        is one; opts: further config keys and values by turns."""
        content = read_checkpoint(path)
        _check_checkpoint(content, path)
        cfg = get_cfg()
        add_weakseg_config(cfg)
        merge_content(cfg, _stored_config(content, path), f"The config in {path}")
        name = f"classes of {path}"
        register_classes(name, content["metadata"])
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), (name,)
        cfg.MODEL.DEVICE = device or ("cuda" if torch.cuda.is_available() else "cpu")
        merge_options(cfg, opts)
        predictor = cls.__new__(cls)
        predictor._build(cfg, content, path)
        return predictor

    def _build(self, cfg: CfgNode, content: dict[str, Any], path: str | Path) -> None:
        self.cfg = cfg.clone()
        self.cfg.defrost()
        # The checkpoint holds the backbone too, and its first weights need not exist on this machine.
        self.cfg.MODEL.BACKBONE.WEIGHTS = ""
        _check_device(self.cfg.MODEL.DEVICE)
        self.metadata = metadata_of(self.cfg)
        self.model = build_model(self.cfg).eval()
        load_exactly(self.model, content, str(path), class_names=self.metadata.stuff_classes, remedy=_REMEDY)
        self.augmentation = build_augmentation(self.cfg, is_train=False)

    @torch.no_grad()
    def __call__(
        self,
        image: np.ndarray,
        *,
        points: Sequence[Sequence[float]] = (),
        tags: Sequence[int] | None = None,
        expressions: Sequence[str] = (),
        evidence: Mapping[str, np.ndarray] | None = None,
    ) -> dict:
        """The head's result at the size of the image (see `WeakHead.finish`).

        image (H, W, 3) uint8 BGR, as OpenCV reads it. For heads that take more: points, each (x, y, class index) in
        pixels of the image; tags, the indices of the classes in the image (None: unknown); expressions, sentences;
        evidence, maps (H, W) or (H, W, C) by name.
        """
        _check_image(image)
        height, width = image.shape[:2]
        evidence = dict(evidence or {})
        _check_evidence(evidence, (height, width))
        labels = self._labels((height, width), points, tags, expressions)
        pixels = np.ascontiguousarray(image[:, :, ::-1] if self.cfg.INPUT.FORMAT == "RGB" else image)
        pixels, labels, evidence = self.augmentation(pixels, labels, evidence, np.random.default_rng(0))
        sample = {
            "image": torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            "height": height,
            "width": width,
            "weak": labels,
            "evidence": {name: np.ascontiguousarray(values) for name, values in evidence.items()},
        }
        (result,) = self.model([sample])
        return result

    def _labels(
        self,
        size: tuple[int, int],
        points: Sequence[Sequence[float]],
        tags: Sequence[int] | None,
        expressions: Sequence[str],
    ) -> WeakLabels:
        """One target a point, then one an expression, whose class is not known (255)."""
        height, width = size
        num_classes = sum(class_counts(self.metadata))
        for point in points:
            is_triple = np.shape(point) == (3,)
            if not is_triple or not (
                0 <= point[0] < width and 0 <= point[1] < height and point[2] in range(num_classes)
            ):
                raise ValueError(
                    f"points: expected (x, y, class index) inside the image of {width} x {height} pixels, class 0 to "
                    f"{num_classes - 1}; found {point}. Give x and y in pixels of this image."
                )
        for tag in () if tags is None else tags:
            if tag not in range(num_classes):
                raise ValueError(
                    f"tags: expected class indices 0 to {num_classes - 1}; found {tag}. Look them up in "
                    "metadata.stuff_classes."
                )
        if isinstance(expressions, str):
            raise ValueError(f"expressions: expected a list of sentences; found {expressions!r}. Put it into a list.")
        annotations: list[dict[str, Any]] = [
            {"category_id": int(kind), "point_coords": [[float(x), float(y)]]} for x, y, kind in points
        ]
        annotations += [{"category_id": IGNORE_LABEL, "expressions": [sentence]} for sentence in expressions]
        record: dict[str, Any] = {"height": height, "width": width, "annotations": annotations}
        if tags is not None:
            record["tags"] = [int(tag) for tag in tags]
        return weak_labels(record)


def _check_checkpoint(content: dict, path: str | Path) -> None:
    config, classes, state = (content.get(key) for key in ("config", "metadata", "model"))
    if not (
        isinstance(config, str)
        and isinstance(classes, dict)
        and all(isinstance(classes.get(key), list) for key in _CLASS_KEYS)
        and isinstance(state, dict)
    ):
        raise ValueError(
            f"{path}: expected a checkpoint with config, metadata and model; found {some_names(content) or 'nothing'}. "
            "Give a file that tools/train_net.py wrote."
        )


def _stored_config(content: dict, path: str | Path) -> CfgNode:
    try:
        return CfgNode.load_cfg(content["config"])
    except (yaml.YAMLError, TypeError, AttributeError, AssertionError):
        raise ValueError(
            f"{path}: expected a config in YAML; found text that is none. Give a file that tools/train_net.py wrote."
        ) from None


def _check_device(device: str) -> None:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):  # the latter where torch was built without CUDA
        raise ValueError(
            f"MODEL.DEVICE: expected a device of this machine; found {device!r}, which it does not have. "
            "Use cpu, or cuda where there is a GPU."
        ) from None


def _check_image(image: np.ndarray) -> None:
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        if image.size:
            return
    found = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else f"a {type(image).__name__}"
    raise ValueError(
        f"image: expected an array (H, W, 3) of uint8 in BGR; found {found}. Read it with safe_io.read_image or cv2."
    )


def _check_evidence(evidence: dict[str, np.ndarray], size: tuple[int, int]) -> None:
    for name, values in evidence.items():
        if np.shape(values)[:2] != size:
            raise ValueError(
                f"evidence {name}: expected a map of the image's size, {size[1]} x {size[0]} pixels; found the shape "
                f"{np.shape(values)}. Resize it to the image."
            )


def register_classes(name: str, classes: dict) -> None:
    """Metadata from what a checkpoint carries (`thing_classes`, `stuff_classes`, colours)."""
    if name in MetadataCatalog:  # the file may have been written anew with other classes
        MetadataCatalog.remove(name)
    num_things, num_classes = len(classes["thing_classes"]), len(classes["stuff_classes"])
    MetadataCatalog.get(name).set(
        **{key: classes[key] for key in _CLASS_KEYS},
        thing_dataset_id_to_contiguous_id={k + 1: k for k in range(num_things)},
        stuff_dataset_id_to_contiguous_id={k + 1: k for k in range(num_things, num_classes)},
    )
