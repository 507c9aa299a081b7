"""SPML's parts from a config: what of `MODEL.SPML` and of the data each is made with."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec

from weakseg.labels import UNLABELLED, ClassOrder
from weakseg.methods.spml.criterion import Criterion, Relation, Relations
from weakseg.methods.spml.local_features import ColorFeatures
from weakseg.methods.spml.memory_bank import MemoryBank
from weakseg.methods.spml.network import STRIDE, SPMLNetwork
from weakseg.methods.spml.prediction import Tiling, memory_files


def feature_of(cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> ShapeSpec:
    """The shape of the backbone's map `MODEL.SPML.IN_FEATURE`."""
    name = cfg.MODEL.SPML.IN_FEATURE
    if name not in input_shape:
        raise ValueError(
            f"MODEL.SPML.IN_FEATURE: expected a map of the backbone, {' or '.join(input_shape)}; found {name!r}. "
            "Set it to one of them, or add it to the backbone's OUT_FEATURES."
        )
    return input_shape[name]


def check_numbers(cfg: CfgNode) -> None:
    """Refuse numbers of `MODEL.SPML` that nothing can be done with, before any time is spent."""
    for key, is_good, words in _limits(cfg.MODEL.SPML):
        found: Any = cfg.MODEL.SPML
        for name in key.split("."):
            found = found[name]
        if not is_good(found):
            raise ValueError(f"MODEL.SPML.{key}: expected {words}; found {found!r}. Set it to such a value.")


def check_labels(cfg: CfgNode) -> None:
    """Refuse a run of which no pixel can have a label."""
    pixels = {"points", "scribbles", "masks"} & set(cfg.INPUT.SUPERVISION)
    if not pixels and "semantic" not in cfg.INPUT.EVIDENCE:
        raise ValueError(
            f"INPUT.EVIDENCE: expected 'semantic' to learn from {' and '.join(cfg.INPUT.SUPERVISION) or 'no labels'}, "
            "which name no pixel; found it missing. Make label maps of class activation maps (see models/README.md), "
            "or set INPUT.SUPERVISION to points, scribbles or masks."
        )


def network_of(cfg: CfgNode, feature: ShapeSpec, classes: ClassOrder) -> SPMLNetwork:
    """feature: of the backbone's map."""
    node = cfg.MODEL.SPML
    if feature.stride % STRIDE:
        raise ValueError(
            f"MODEL.SPML.IN_FEATURE: expected a map whose stride is a multiple of {STRIDE}; found stride "
            f"{feature.stride} of {node.IN_FEATURE!r}. Set it to a deeper map of the backbone."
        )
    _choice("MODEL.SPML.NORM", node.NORM, ("SyncBN", "BN"))
    with_colors = (
        _choice("MODEL.SPML.LOCAL_FEATURES", node.LOCAL_FEATURES, ("position", "position_color")) == "position_color"
    )
    return SPMLNetwork(
        feature.channels,
        num_classes=len(classes.class_index),
        head=node.HEAD,
        embedding_dim=node.EMBEDDING_DIM,
        dilations=tuple(node.DILATIONS),
        feature_stride=feature.stride,
        dropout=node.CLASSIFIER_DROPOUT,
        norm=node.NORM,
        classifier_trains_embedding=node.CLASSIFIER_TRAINS_EMBEDDING,
        colors=ColorFeatures(gaussian=node.GAUSSIAN_COLORS) if with_colors else None,
    )


def criterion_of(cfg: CfgNode, classes: ClassOrder) -> Criterion:
    """Raises ValueError where the run lacks the evidence that its labels or relations need."""
    node, relations = cfg.MODEL.SPML, cfg.MODEL.SPML.RELATIONS
    check_labels(cfg)
    if relations.IMAGE.WEIGHT and "regions" not in cfg.INPUT.EVIDENCE:
        raise ValueError(
            "INPUT.EVIDENCE: expected 'regions' for MODEL.SPML.RELATIONS.IMAGE; found none. Make them with "
            "tools/make_oversegmentation.py, or set the relation's WEIGHT to 0."
        )
    source = _choice("MODEL.SPML.RELATIONS.IMAGE.SOURCE", relations.IMAGE.SOURCE, ("located", "embedding"))
    num_classes = len(classes.class_index)
    # The first tag is the background, also where the data have none.
    num_tags = num_classes if classes.has_background else num_classes + 1
    return Criterion(
        num_classes=num_classes,
        relations=Relations(
            annotation=_relation(relations.ANNOTATION),
            cooccurrence=_relation(relations.COOCCURRENCE),
            image=_relation(relations.IMAGE),
            affinity=_relation(relations.AFFINITY),
            affinity_threshold=relations.AFFINITY.THRESHOLD,
            image_of_embedding=source == "embedding",
        ),
        pixel_loss_weight=node.PIXEL_LOSS_WEIGHT,
        kmeans_grid=tuple(node.KMEANS.GRID),
        kmeans_iterations=node.KMEANS.ITERATIONS,
        memory=MemoryBank(length=node.MEMORY_BANK, channels=node.EMBEDDING_DIM, num_classes=num_tags),
        squeeze=node.EMBEDDING_SQUEEZE,
        official=node.OFFICIAL_COMPAT,
    )


def predictor_arguments(cfg: CfgNode, classes: ClassOrder) -> dict:
    """Keyword arguments of `Predictor`. Raises ValueError or FileNotFoundError where the run lacks what its way of
    prediction needs: a training would find out at its end."""
    test = cfg.MODEL.SPML.TEST
    if _choice("MODEL.SPML.TEST.PREDICTOR", test.PREDICTOR, ("softmax", "retrieval")) == "retrieval":
        memory_files(test.MEMORY)
    is_missing = cfg.TEST.CRF.ENGINE == "pydensecrf" and importlib.util.find_spec("pydensecrf") is None
    if cfg.TEST.CRF.ENABLED and is_missing:
        raise ValueError(
            "TEST.CRF.ENGINE: expected the package pydensecrf2 for pydensecrf; found none. Run pip install "
            "--no-build-isolation -e '.[crf]' in the checkout, or set it to lattice."
        )
    return {
        **_shared(cfg, classes),
        "crf": crf_arguments(cfg) if cfg.TEST.CRF.ENABLED else None,
        "image_size": test.IMAGE_SIZE,
        "tiling": Tiling(test.CROP_SIZE, test.STRIDE),
        "scales": tuple(test.SCALES),
        "flip": test.FLIP,
        "at_stride_4": test.CLASSIFY_AT_STRIDE_4,
    }


def labeller_arguments(cfg: CfgNode, classes: ClassOrder) -> dict:
    """Keyword arguments of `PseudoLabeller`."""
    pseudo = cfg.MODEL.SPML.PSEUDO
    return {
        **_shared(cfg, classes),
        "crf": crf_arguments(cfg) if pseudo.CRF else None,
        "crop_size": cfg.MODEL.SPML.TEST.CROP_SIZE,
        "stride": cfg.MODEL.SPML.TEST.STRIDE,
        "at_stride_4": cfg.MODEL.SPML.TEST.CLASSIFY_AT_STRIDE_4,
        "alpha": pseudo.ALPHA,
        "walk_steps": pseudo.WALK_STEPS,
        "power": pseudo.POWER,
        "min_peak": pseudo.MIN_PEAK,
    }


def crf_arguments(cfg: CfgNode) -> dict:
    """Keyword arguments of `refine.crf.dense_crf` from `TEST.CRF`."""
    crf = cfg.TEST.CRF
    return {
        "iterations": crf.ITERATIONS,
        "gaussian_weight": crf.POS_W,
        "gaussian_sigma": crf.POS_XY,
        "bilateral_weight": crf.BI_W,
        "bilateral_sigma": crf.BI_XY,
        "bilateral_color_sigma": crf.BI_RGB,
        "engine": _choice("TEST.CRF.ENGINE", crf.ENGINE, ("lattice", "pydensecrf")),
    }


def _shared(cfg: CfgNode, classes: ClassOrder) -> dict:
    test = cfg.MODEL.SPML.TEST
    return {
        "num_classes": len(classes.class_index),
        "kmeans_grid": tuple(test.KMEANS_GRID),
        "kmeans_iterations": test.KMEANS_ITERATIONS,
        "neighbours": test.TOP_K,
        "mean": tuple(value / 255 for value in cfg.MODEL.PIXEL_MEAN),
        "std": tuple(value / 255 for value in cfg.MODEL.PIXEL_STD),
        "official": cfg.MODEL.SPML.OFFICIAL_COMPAT,
    }


def _relation(node: CfgNode) -> Relation:
    return Relation(weight=node.WEIGHT, concentration=node.CONCENTRATION)


def _choice(key: str, found: str, known: tuple[str, ...]) -> str:
    if found not in known:
        raise ValueError(f"{key}: expected {' or '.join(known)}; found {found!r}. Set one of them.")
    return found


def _limits(node: CfgNode) -> list[tuple[str, Callable[[Any], bool], str]]:
    """Key of `MODEL.SPML`, whether its value will do, and the words for what will."""
    at_least_0, at_least_1, share = (_between(0), "a number from 0"), (_between(1), "a number from 1"), _between(0, 1)
    grid = _all(_between(1), count=2), "two numbers from 1, rows and columns"
    scales = _all(_is_factor), "factors above 0"
    return [
        ("EMBEDDING_DIM", *at_least_1),
        ("DILATIONS", _all(_between(1)), "numbers from 1"),
        ("CLASSIFIER_DROPOUT", share, "a probability from 0 to 1"),
        ("KMEANS.GRID", *grid),
        ("KMEANS.ITERATIONS", *at_least_0),
        ("MEMORY_BANK", *at_least_0),
        ("INPUT.CROP_SIZE", *at_least_1),
        (
            "INPUT.SCALE_RANGE",
            lambda found: _all(_is_factor, count=2)(found) and found[0] <= found[1],
            "two factors above 0, the smaller one first",
        ),
        ("INPUT.GRAYSCALE", share, "a probability from 0 to 1"),
        ("INPUT.BLUR", share, "a probability from 0 to 1"),
        (
            "INPUT.FLIP_PAIRS",
            _all(_all(_between(0, UNLABELLED - 1), count=2)),
            f"pairs of classes from 0 to {UNLABELLED - 1}",
        ),
        ("TEST.IMAGE_SIZE", *at_least_1),
        ("TEST.CROP_SIZE", *at_least_1),
        # Tiles further apart than they are wide leave pixels out.
        ("TEST.STRIDE", _between(1, node.TEST.CROP_SIZE), f"1 to TEST.CROP_SIZE, {node.TEST.CROP_SIZE}"),
        ("TEST.SCALES", *scales),
        ("TEST.FLIP", lambda found: not found or len(node.TEST.SCALES) > 0, "False without TEST.SCALES"),
        ("TEST.KMEANS_GRID", *grid),
        ("TEST.KMEANS_ITERATIONS", *at_least_0),
        ("TEST.TOP_K", *at_least_1),
        ("PSEUDO.SCALES", *scales),
        ("PSEUDO.WALK_STEPS", *at_least_0),
        ("CAM.SCALES", lambda found: len(found) > 0 and scales[0](found), "at least one factor above 0"),
    ]


def _between(low: float, high: float = float("inf")) -> Callable[[Any], bool]:
    return lambda found: isinstance(found, (int, float)) and low <= found <= high


def _is_factor(found: Any) -> bool:
    return _between(0)(found) and found != 0


def _all(is_good: Callable[[Any], bool], *, count: int | None = None) -> Callable[[Any], bool]:
    """Of a sequence: whether each element is good, and there are `count`."""
    return lambda found: isinstance(found, (tuple, list)) and count in (None, len(found)) and all(map(is_good, found))
