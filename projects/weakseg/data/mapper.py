"""From a record that passed the gate to a sample: read, augment image, labels and evidence together, prepare."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from detectron2.config import configurable

from weakseg.data.augmentation import Augmentation, build_augmentation
from weakseg.labels.build import weak_labels
from weakseg.proposals import ProposalLoader, build_evidence
from weakseg.safe_io import read_image


class WeakMapper:
    """(record, generator) -> sample: `image` uint8 (C, H, W), `height`, `width` (of the stored image), `file_name`,
    `image_id`, `weak` (`WeakLabels` at the size of `image`), `evidence` (name -> map of that size).

    Built as `WeakMapper(cfg, is_train, prepare=head.prepare)`.
    """

    @configurable
    def __init__(
        self,
        *,
        augmentation: Augmentation,
        image_format: str,
        evidence: dict[str, ProposalLoader],
        prepare: Callable[[dict], dict] | None = None,
    ):
        self.augmentation = augmentation
        self.image_format = image_format
        self.evidence = evidence
        self.prepare = prepare

    @classmethod
    def from_config(cls, cfg, is_train: bool, *, prepare: Callable[[dict], dict] | None = None) -> dict:
        return {
            "augmentation": build_augmentation(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "evidence": build_evidence(cfg) if is_train or "proposals" in cfg.TEST.INPUTS else {},
            "prepare": prepare,
        }

    def __call__(self, record: dict, generator: np.random.Generator) -> dict:
        image = _read(record, self.image_format)
        evidence = {name: _load(name, loader, record) for name, loader in self.evidence.items()}
        image, weak, evidence = self.augmentation(image, weak_labels(record), evidence, generator)
        sample = {key: record[key] for key in ("file_name", "image_id", "height", "width")}
        sample["image"] = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        sample["weak"] = weak
        sample["evidence"] = {name: np.ascontiguousarray(values) for name, values in evidence.items()}
        return sample if self.prepare is None else self.prepare(sample)


def _read(record: dict, image_format: str) -> np.ndarray:
    image = read_image(record["file_name"], format=image_format)
    _check_size(f"{record['file_name']} (image {record['image_id']})", image, record)
    return image


def _load(name: str, loader: ProposalLoader, record: dict) -> np.ndarray:
    values = loader(record)
    _check_size(f"Evidence {name} of {record['file_name']} (image {record['image_id']})", values, record)
    return values


def _check_size(what: str, values: np.ndarray, record: dict) -> None:
    height, width = values.shape[:2]
    if (height, width) != (record["height"], record["width"]):
        raise ValueError(
            f"{what}: expected {record['width']} x {record['height']} pixels as in the label file; found {width} x "
            f"{height}. Correct the label file, or put the right file there."
        )
