"""Configuration keys of Point2Mask, `MODEL.POINT2MASK.*`. Defaults are the published values for VOC (card section 11)."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


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
