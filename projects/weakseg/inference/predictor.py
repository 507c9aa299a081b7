"""Prediction on one image: `WeakPredictor`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model

from weakseg.config import add_weakseg_config
from weakseg.data.augmentation import build_augmentation
from weakseg.data.catalog import metadata_of
from weakseg.labels import WeakLabels
from weakseg.safe_io import read_weights


class WeakPredictor:
    """Like Detectron2's `DefaultPredictor`, for heads that take labels too, and from a checkpoint alone.

    `metadata` has the names and colours of the classes.
    """

    def __init__(self, cfg: CfgNode):
        """cfg.MODEL.WEIGHTS: a checkpoint of exactly this model; its classes are those of the config's data sets."""
        self._build(cfg, read_weights(cfg.MODEL.WEIGHTS))

    @classmethod
    def from_checkpoint(cls, path: str | Path, *, device: str | None = None, opts: Sequence[str] = ()) -> WeakPredictor:
        """From a checkpoint that training wrote: it carries its config and classes. device: default a GPU where there
        is one; opts: further config keys and values by turns."""
        content = read_weights(path)
        if not {"config", "metadata", "model"} <= content.keys():
            raise ValueError(
                f"{path}: expected a checkpoint with config, metadata and model; found "
                f"{', '.join(sorted(content)[:5])}. Give a file that tools/train_net.py wrote."
            )
        cfg = get_cfg()
        add_weakseg_config(cfg)
        cfg.merge_from_other_cfg(CfgNode.load_cfg(content["config"]))
        name = f"classes of {path}"
        _register_classes(name, content["metadata"])
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), (name,)
        cfg.MODEL.BACKBONE.WEIGHTS = ""
        cfg.MODEL.DEVICE = device or ("cuda" if torch.cuda.is_available() else "cpu")
        cfg.merge_from_list(list(opts))
        predictor = cls.__new__(cls)
        predictor._build(cfg, content)
        return predictor

    def _build(self, cfg: CfgNode, content: dict) -> None:
        self.cfg = cfg
        self.metadata = metadata_of(cfg)
        self.model = build_model(cfg).eval()
        self.model.load_state_dict(content.get("model", content))
        self.augmentation = build_augmentation(cfg, is_train=False)

    @torch.no_grad()
    def __call__(self, image: np.ndarray, labels: WeakLabels | None = None) -> dict:
        """image (H, W, 3) uint8 BGR, as OpenCV reads it; labels of that image, for heads that need them. Returns the
        head's result at that size (see `WeakHead.finish`)."""
        height, width = image.shape[:2]
        if self.cfg.INPUT.FORMAT == "RGB":
            image = image[:, :, ::-1]
        labels = labels or WeakLabels(image_size=(height, width))
        image, labels, _ = self.augmentation(image, labels, {}, np.random.default_rng(0))
        tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        (result,) = self.model([{"image": tensor, "weak": labels, "height": height, "width": width}])
        return result


def _register_classes(name: str, classes: dict) -> None:
    """Metadata from what a checkpoint carries (`thing_classes`, `stuff_classes`, colours)."""
    num_things, num_classes = len(classes["thing_classes"]), len(classes["stuff_classes"])
    MetadataCatalog.get(name).set(
        **classes,
        thing_dataset_id_to_contiguous_id={k + 1: k for k in range(num_things)},
        stuff_dataset_id_to_contiguous_id={k + 1: k for k in range(num_things, num_classes)},
    )
