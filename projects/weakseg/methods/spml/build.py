"""SPML's parts from a config: what of `MODEL.SPML` and of the data each is made with."""

from __future__ import annotations

from collections.abc import Mapping

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec

from weakseg.labels import ClassOrder
from weakseg.methods.spml.criterion import Criterion, Relation, Relations
from weakseg.methods.spml.local_features import ColorFeatures
from weakseg.methods.spml.memory_bank import MemoryBank
from weakseg.methods.spml.network import SPMLNetwork
from weakseg.methods.spml.prediction import Tiling


def feature_of(cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> ShapeSpec:
    """The shape of the backbone's map `MODEL.SPML.IN_FEATURE`."""
    name = cfg.MODEL.SPML.IN_FEATURE
    if name not in input_shape:
        raise ValueError(
            f"MODEL.SPML.IN_FEATURE: expected a map of the backbone, {' or '.join(input_shape)}; found {name!r}. "
            "Set it to one of them, or add it to the backbone's OUT_FEATURES."
        )
    return input_shape[name]


def network_of(cfg: CfgNode, feature: ShapeSpec, classes: ClassOrder) -> SPMLNetwork:
    """feature: of the backbone's map."""
    node = cfg.MODEL.SPML
    with_colors = _choice("LOCAL_FEATURES", node.LOCAL_FEATURES, ("position", "position_color")) == "position_color"
    return SPMLNetwork(
        feature.channels,
        num_classes=len(classes.class_index),
        head=node.HEAD,
        embedding_dim=node.EMBEDDING_DIM,
        dilations=tuple(node.DILATIONS),
        feature_stride=feature.stride,
        dropout=node.CLASSIFIER_DROPOUT,
        norm=node.NORM,
        classifier_norm=node.NORM,
        classifier_trains_embedding=node.CLASSIFIER_TRAINS_EMBEDDING,
        colors=ColorFeatures(gaussian=node.GAUSSIAN_COLORS) if with_colors else None,
    )


def criterion_of(cfg: CfgNode, classes: ClassOrder) -> Criterion:
    """Raises ValueError where the run lacks the evidence that its labels or relations need."""
    node, relations = cfg.MODEL.SPML, cfg.MODEL.SPML.RELATIONS
    _check_evidence(cfg)
    source = _choice("RELATIONS.IMAGE.SOURCE", relations.IMAGE.SOURCE, ("located", "embedding"))
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


def predictor_arguments(cfg: CfgNode, feature: ShapeSpec, classes: ClassOrder) -> dict:
    """Keyword arguments of `Predictor`."""
    test = cfg.MODEL.SPML.TEST
    _choice("TEST.PREDICTOR", test.PREDICTOR, ("softmax", "retrieval"))
    return {
        **_shared(cfg, classes),
        "crf": crf_arguments(cfg) if cfg.TEST.CRF.ENABLED else None,
        "image_size": test.IMAGE_SIZE,
        "tiling": Tiling(test.CROP_SIZE, test.STRIDE, _divisor(cfg, feature)),
        "scales": tuple(test.SCALES),
        "flip": test.FLIP,
        "at_stride_4": test.CLASSIFY_AT_STRIDE_4,
    }


def labeller_arguments(cfg: CfgNode, feature: ShapeSpec, classes: ClassOrder) -> dict:
    """Keyword arguments of `PseudoLabeller`."""
    pseudo = cfg.MODEL.SPML.PSEUDO
    return {
        **_shared(cfg, classes),
        "crf": crf_arguments(cfg) if pseudo.CRF else None,
        "crop_size": cfg.MODEL.SPML.TEST.CROP_SIZE,
        "stride": cfg.MODEL.SPML.TEST.STRIDE,
        "at_stride_4": cfg.MODEL.SPML.TEST.CLASSIFY_AT_STRIDE_4,
        "divisor": _divisor(cfg, feature),
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
        "engine": crf.ENGINE,
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


def _divisor(cfg: CfgNode, feature: ShapeSpec) -> int:
    """What the sides of an image must be multiples of: any size will do for the deep-stem ResNet."""
    return 1 if cfg.MODEL.BACKBONE.NAME == "build_deep_stem_resnet_backbone" else feature.stride


def _choice(key: str, found: str, known: tuple[str, ...]) -> str:
    if found not in known:
        raise ValueError(f"MODEL.SPML.{key}: expected {' or '.join(known)}; found {found!r}. Set one of them.")
    return found


def _check_evidence(cfg: CfgNode) -> None:
    pixels = {"points", "scribbles", "masks"} & set(cfg.INPUT.SUPERVISION)
    if not pixels and "semantic" not in cfg.INPUT.EVIDENCE:
        raise ValueError(
            f"INPUT.EVIDENCE: expected 'semantic' to learn from {' and '.join(cfg.INPUT.SUPERVISION) or 'no labels'}, "
            "which name no pixel; found it missing. Make label maps of class activation maps (see models/README.md), "
            "or set INPUT.SUPERVISION to points, scribbles or masks."
        )
    if cfg.MODEL.SPML.RELATIONS.IMAGE.WEIGHT and "regions" not in cfg.INPUT.EVIDENCE:
        raise ValueError(
            "INPUT.EVIDENCE: expected 'regions' for MODEL.SPML.RELATIONS.IMAGE; found none. Make them with "
            "tools/make_oversegmentation.py, or set the relation's WEIGHT to 0."
        )
