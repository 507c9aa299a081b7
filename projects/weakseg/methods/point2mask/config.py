"""Configuration keys of Point2Mask, `MODEL.POINT2MASK.*`; defaults are published values for VOC (card section 11)."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from weakseg.methods.point2mask.loss_weights import LossWeights


def add_point2mask_config(cfg: CN) -> None:
    """Add `MODEL.POINT2MASK` to the config, in place."""
    node = cfg.MODEL.POINT2MASK = CN()
    # Restores every fault that the card letters, for parity and published checkpoints.
    node.OFFICIAL_COMPAT = False

    # Backbone maps of stride 8, 16, 32 (card 2.2).
    node.IN_FEATURES = ("res3", "res4", "res5")
    # Network (card 2.4 to 2.7).
    node.HIDDEN_DIM = 256
    node.FFN_DIM = 1024
    node.NUM_HEADS = 8
    node.NUM_POINTS = 4
    node.ENC_LAYERS = 6
    node.DEC_LAYERS = 6
    node.NUM_QUERIES = 300
    node.DROPOUT = 0.1
    node.THING_LAYERS = 4
    node.STUFF_LAYERS = 6
    node.SEMANTIC_LAYERS = 6
    node.EMBED_DIM = 128
    # Recompute encoder and decoder layers in the backward pass instead of keeping what they computed.
    node.GRADIENT_CHECKPOINTING = False

    # Side, in pixels of the network input, of the square that a labelled pixel is grown to (card 3.1).
    node.POINT_DILATION = 17
    # Iterations over which losses that depend on pseudo labels rise from 0 (card 3.10).
    node.LOSS_RAMP_ITERS = 14659
    # Temperature of the contrastive embedding loss (card 3.8).
    node.TEMPERATURE = 0.07

    # Optimal transport (card 3.4): iterations with Voronoi supply, then with centroid supply.
    node.OT = CN({"WARMUP_ITERS": 12000, "EPS": 1.0e-3, "ITERS": 80})
    # Pixel graph: pixels of the input per graph cell, and weights of the edge cost's terms (card 3.4).
    node.GRAPH = CN({"STRIDE": 16, "LAMBDA_PROB": 1.0, "LAMBDA_BOUNDARY": 0.1, "LAMBDA_FEATURE": 0.1})
    # Add an edge map to the boundary term (card 3.5): the evidence "edges", or with EDGE_MODEL, a structured forest
    # (model.yml.gz), what that finds in the augmented image.
    node.GRAPH.LOW_LEVEL_EDGES = False
    node.GRAPH.EDGE_MODEL = ""

    # Loss weights (card 3.10).
    node.LOSS = CN()
    node.LOSS.CLASS_WEIGHT = 2.0
    node.LOSS.BOX_WEIGHT = 5.0
    node.LOSS.GIOU_WEIGHT = 2.0
    node.LOSS.MASK_WEIGHT = 2.0
    node.LOSS.STUFF_CLASS_FACTOR = 2.0
    node.LOSS.COLOR_WEIGHT = 3.0
    node.LOSS.TREE_WEIGHT = 3.0

    node.TEST = CN()
    # (query, class) pairs kept per image (card 5).
    node.TEST.TOPK = 100
    # Lowest final score of a segment, and largest share of it that better segments may cover (card 5).
    node.TEST.QUALITY_THRESH_THING = 0.25
    node.TEST.QUALITY_THRESH_STUFF = 0.25
    node.TEST.OVERLAP_THRESH_THING = 0.4
    node.TEST.OVERLAP_THRESH_STUFF = 0.2
    # Also run the semantic decoder, for mean IoU.
    node.TEST.SEMANTIC = True


def network_arguments(cfg: CN) -> dict:
    """Keyword arguments of `Point2MaskNetwork`, class counts aside."""
    node = cfg.MODEL.POINT2MASK
    return {
        "hidden_dim": node.HIDDEN_DIM,
        "ffn_dim": node.FFN_DIM,
        "num_heads": node.NUM_HEADS,
        "num_points": node.NUM_POINTS,
        "enc_layers": node.ENC_LAYERS,
        "dec_layers": node.DEC_LAYERS,
        "num_queries": node.NUM_QUERIES,
        "dropout": node.DROPOUT,
        "thing_layers": node.THING_LAYERS,
        "stuff_layers": node.STUFF_LAYERS,
        "semantic_layers": node.SEMANTIC_LAYERS,
        "embed_dim": node.EMBED_DIM,
        "gradient_checkpointing": node.GRADIENT_CHECKPOINTING,
    }


def criterion_arguments(cfg: CN) -> dict:
    """Keyword arguments of `Criterion`, class counts aside."""
    node = cfg.MODEL.POINT2MASK
    return {
        "pixel_mean": list(cfg.MODEL.PIXEL_MEAN),
        "pixel_std": list(cfg.MODEL.PIXEL_STD),
        "channel_order": cfg.INPUT.FORMAT,
        "temperature": node.TEMPERATURE,
        "ramp_iters": node.LOSS_RAMP_ITERS,
        "weights": LossWeights(
            classification=node.LOSS.CLASS_WEIGHT,
            box=node.LOSS.BOX_WEIGHT,
            giou=node.LOSS.GIOU_WEIGHT,
            mask=node.LOSS.MASK_WEIGHT,
            stuff_class_factor=node.LOSS.STUFF_CLASS_FACTOR,
            color=node.LOSS.COLOR_WEIGHT,
            tree=node.LOSS.TREE_WEIGHT,
        ),
        "official": node.OFFICIAL_COMPAT,
    }


def transport_arguments(cfg: CN) -> dict:
    """Keyword arguments of `make_pseudo_labels` that a config decides."""
    node = cfg.MODEL.POINT2MASK
    return {
        "stride": node.GRAPH.STRIDE,
        "epsilon": node.OT.EPS,
        "iterations": node.OT.ITERS,
        "lambda_probability": node.GRAPH.LAMBDA_PROB,
        "lambda_boundary": node.GRAPH.LAMBDA_BOUNDARY,
        "lambda_feature": node.GRAPH.LAMBDA_FEATURE,
    }
