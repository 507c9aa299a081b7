"""What both stages of SPML predict: semantic maps, pseudo labels and prototypes of segments (card 3.11, 5)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.structures import ImageList
from torch import Tensor

from weakseg.data.catalog import metadata_of
from weakseg.heads import SegmentationModel, WeakHead
from weakseg.labels import IGNORED, NO_CLASS, ClassOrder, LabelKind
from weakseg.methods.spml.build import (
    check_numbers,
    feature_of,
    labeller_arguments,
    network_of,
    predictor_arguments,
)
from weakseg.methods.spml.network import SPMLNetwork, parameter_groups
from weakseg.methods.spml.prediction import Embed, Predictor, make_prototypes, read_memory
from weakseg.methods.spml.pseudo_labels import PseudoLabeller
from weakseg.methods.spml.views import resize_nearest

_PSEUDO_METHODS = {
    "classifier_walk": ("classifier", "labels"),
    "cam_walk": ("cams",),
    "classifier_only": ("classifier", "labels"),
    "nearest_segments": ("memory", "labels"),
    "densepose_walk": ("labels", "region"),
}
"""Method of `PseudoLabeller` -> what it takes besides image and embedding."""


class SegmentationHead(WeakHead):
    """An embedding, a classifier of its pixels, and all that is predicted with them. Stages add their losses."""

    gives = frozenset({"sem_seg"})
    accepts = frozenset({LabelKind.POINTS, LabelKind.SCRIBBLES, LabelKind.BOXES, LabelKind.TAGS, LabelKind.MASKS})

    def __init__(
        self,
        *,
        network: SPMLNetwork,
        classes: ClassOrder,
        in_feature: str,
        predictor: dict,
        labeller: dict,
        by_retrieval: bool = False,
        memory_folder: str = "",
        pseudo_method: str = "classifier_walk",
        prototype_scales: tuple[float, ...] = (0.5, 1.0, 1.5),
        head_lr_factor: float = 10.0,
        bias_lr_factor: float = 2.0,
    ):
        """predictor, labeller: keyword arguments of `Predictor` and `PseudoLabeller`; by_retrieval: predict from the
        prototypes in `memory_folder`; pseudo_method: a method of `PseudoLabeller`, or "prototypes"."""
        super().__init__()
        if pseudo_method != "prototypes" and pseudo_method not in _PSEUDO_METHODS:
            known = ", ".join([*_PSEUDO_METHODS, "prototypes"])
            raise ValueError(f"MODEL.SPML.PSEUDO.METHOD: expected one of {known}; found {pseudo_method!r}. Set one.")
        self.network = network
        self.classes, self.in_feature = classes, in_feature
        self.predictor, self.labeller = Predictor(**predictor), PseudoLabeller(**labeller)
        self.by_retrieval, self.memory_folder = by_retrieval, memory_folder
        self.pseudo_method, self.prototype_scales = pseudo_method, prototype_scales
        self.head_lr_factor, self.bias_lr_factor = head_lr_factor, bias_lr_factor
        self._memory: tuple[Tensor, Tensor] | None = None

    @classmethod
    def arguments(cls, cfg, input_shape) -> dict:
        """Arguments from a config, for `from_config` of a stage."""
        node = cfg.MODEL.SPML
        check_numbers(cfg)
        classes = ClassOrder.of(metadata_of(cfg).stuff_classes)
        feature = feature_of(cfg, input_shape)
        return {
            "network": network_of(cfg, feature, classes),
            "classes": classes,
            "in_feature": node.IN_FEATURE,
            "predictor": predictor_arguments(cfg, classes),
            "labeller": labeller_arguments(cfg, classes),
            "by_retrieval": node.TEST.PREDICTOR == "retrieval",
            "memory_folder": node.TEST.MEMORY,
            "pseudo_method": node.PSEUDO.METHOD,
            "prototype_scales": tuple(node.PSEUDO.SCALES),
            "head_lr_factor": node.SOLVER.HEAD_LR_FACTOR,
            "bias_lr_factor": node.SOLVER.BIAS_LR_FACTOR,
        }

    @torch.no_grad()
    def predict(self, model: SegmentationModel, images: ImageList, batch: list[dict]) -> list[dict]:
        """Per image "sem_seg": house class indices (H, W) int64, from the views that `MODEL.SPML.TEST` names."""
        embed, predictor = self._embed(model), self._predictor(model)
        results = []
        for image, sample in zip(_images(images), batch):
            if self.by_retrieval:
                found = predictor.retrieval(image, embed, self._read_memory(image.device))
            else:
                found = predictor.softmax(image, embed, self.network.classifier)
            results.append({"sem_seg": self._house(found, sample)})
        return results

    @torch.no_grad()
    def pseudo_labels(self, model: SegmentationModel, images: ImageList, batch: list[dict]) -> list[dict]:
        """Per image what `MODEL.SPML.PSEUDO.METHOD` makes: "sem_seg", as of `predict` with 255 for no class; or
        "prototypes", segments of several scales with the classes of the image's label map (card 5.2)."""
        return [self._grown(image, sample, model) for image, sample in zip(_images(images), batch)]

    def parameter_groups(self, model: SegmentationModel) -> list[dict]:
        return parameter_groups(
            model.backbone, self, head_lr_factor=self.head_lr_factor, bias_lr_factor=self.bias_lr_factor
        )

    def stacked(self, batch: list[dict], name: str, images: ImageList) -> Tensor:
        """A map of the evidence of all images, (N, H, W) int64; 255 on the padding."""
        height, width = images.tensor.shape[-2:]
        maps = [torch.from_numpy(_evidence(sample)[name]) for sample in batch]
        padded = [F.pad(m, (0, width - m.shape[1], 0, height - m.shape[0]), value=IGNORED) for m in maps]
        return torch.stack(padded).to(images.tensor.device).long()

    def _grown(self, image: Tensor, sample: dict, model: SegmentationModel) -> dict:
        embed = self._embed(model)
        evidence = {name: torch.from_numpy(values).to(image.device) for name, values in _evidence(sample).items()}
        labels = evidence["label_map"].long()
        if self.pseudo_method == "prototypes":
            predictor = self._predictor(model)
            vectors, found = make_prototypes(
                image,
                embed,
                labels,
                tiling=predictor.tiling,
                image_size=predictor.image_size,
                scales=self.prototype_scales,
                kmeans_grid=predictor.kmeans_grid,
                kmeans_iterations=predictor.kmeans_iterations,
            )
            return {"prototypes": {"prototype": vectors, "prototype_label": found}}
        needed = _PSEUDO_METHODS[self.pseudo_method]
        arguments = {
            "classifier": self.network.classifier,
            "labels": labels,
            "cams": self._cams(evidence.get("cams"), sample) if "cams" in needed else None,
            "memory": self._read_memory(image.device) if "memory" in needed else None,
            "region": evidence.get("regions", torch.zeros_like(labels)).long(),
        }
        grow = getattr(replace(self.labeller, divisor=_divisor(model)), self.pseudo_method)
        found = grow(image, embed, **{name: arguments[name] for name in needed})
        return {"sem_seg": self._house(found, sample)}

    def _cams(self, cams: Tensor | None, sample: dict) -> Tensor:
        """The evidence (H, W, n) as (K', H, W), with zeros for the classes that it does not reach to; K' counts the
        classes that are not the background."""
        if cams is None:
            raise ValueError(
                f"{sample['file_name']}: expected class activation maps for cam_walk; found none. Add 'cams' to "
                "INPUT.EVIDENCE and set INPUT.CAM_ROOT."
            )
        others = len(self.classes.class_index) - self.classes.has_background
        if cams.shape[2] > others:
            raise ValueError(
                f"{sample['file_name']}: expected class activation maps of {others} classes; found {cams.shape[2]}. "
                "Make them with the classes of this data set."
            )
        return F.pad(cams.permute(2, 0, 1), (0, 0, 0, 0, 0, others - cams.shape[2]))

    def _read_memory(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if self._memory is None:
            memory = read_memory(self.memory_folder)
            length = self.network.classifier.conv.in_channels
            if memory[0].shape[1] != length:
                raise ValueError(
                    f"{self.memory_folder}: expected prototypes of length {length}, MODEL.SPML.EMBEDDING_DIM; found "
                    f"{memory[0].shape[1]}. Make them with this model."
                )
            vectors, labels = self.predictor.usable(memory)
            self._memory = vectors.to(device), labels.to(device)
        return self._memory

    def _embed(self, model: SegmentationModel) -> Embed:
        return lambda images: self.network(model.backbone(images)[self.in_feature])

    def _predictor(self, model: SegmentationModel) -> Predictor:
        """With tiles of sides that the backbone takes."""
        return replace(self.predictor, tiling=replace(self.predictor.tiling, divisor=_divisor(model)))

    def _house(self, found: Tensor, sample: dict) -> Tensor:
        """House indices at the image's own size of a map (h, w) of ordered classes."""
        table = torch.from_numpy(self.classes.to_house(np.arange(NO_CLASS + 1))).to(found.device).long()
        return resize_nearest(table[found], (sample["height"], sample["width"]))


def _divisor(model: SegmentationModel) -> int:
    """What the sides of the backbone's input must be multiples of."""
    return model.backbone.size_divisibility or 1


def _evidence(sample: dict) -> dict[str, np.ndarray]:
    if "label_map" not in sample["evidence"]:
        raise ValueError("INPUT.AUGMENTATION: expected spml, which draws label maps; found another. Set it to spml.")
    return sample["evidence"]


def _images(images: ImageList) -> list[Tensor]:
    """(3, h, w) each, without padding."""
    return [images[b] for b in range(len(images))]
