"""The configuration keys of SPML, `MODEL.SPML.*`, and what of them its parts are built from."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_spml_config(cfg: CN) -> None:
    """Add the keys of SPML, in place. The values are those of VOC with image tags; sections are those of the card."""
    node = cfg.MODEL.SPML = CN()
    # Map of the backbone that the embedding head reads.
    node.IN_FEATURE = "res5"
    # Embedding head (2.2): deeplab, or pspnet.
    node.HEAD = "deeplab"
    node.EMBEDDING_DIM = 64
    # Of the four convolutions of the deeplab head, in cells of the backbone's map.
    node.DILATIONS = (6, 12, 18, 24)
    # Norms of head and classifier: SyncBN over all processes, or BN for each on its own; MODEL.RESNETS.NORM is that of
    # the backbone.
    node.NORM = "SyncBN"
    # Of the pixel classifier's features (2.4): 0.75 beside the embedding, 0.65 in the classifier stage.
    node.CLASSIFIER_DROPOUT = 0.75
    # The classifier's gradient reaches the embedding: with relations of weight 0 this is plain cross-entropy, the
    # baseline of SPML.
    node.CLASSIFIER_TRAINS_EMBEDDING = False
    # What is appended to the embedding for clustering (2.3): position, or position_color as for DensePose.
    node.LOCAL_FEATURES = "position"
    # Smooth the colours with a Gaussian instead of the published kernel, which is 0 at its centre (fault h).
    node.GAUSSIAN_COLORS = False
    # Factor of the embedding beside the local features in relation A (3.3); 0.1 for DensePose.
    node.EMBEDDING_SQUEEZE = 1.0
    # Initial grid (rows, columns) and iterations of the spherical k-means in training (3.3).
    node.KMEANS = CN({"GRID": (6, 6), "ITERATIONS": 10})
    # Iterations whose prototypes stay as constant segments (3.8).
    node.MEMORY_BANK = 2
    # Relations of pixels and segments (3.5): annotated class, image tags, over-segmentation, propagated labels.
    # A weight of 0 turns one off.
    node.RELATIONS = CN()
    node.RELATIONS.ANNOTATION = CN({"WEIGHT": 0.3, "CONCENTRATION": 6.0})
    node.RELATIONS.COOCCURRENCE = CN({"WEIGHT": 0.3, "CONCENTRATION": 8.0})
    # SOURCE: prototypes of "located" vectors (embedding and local features), or of the "embedding" as for DensePose.
    node.RELATIONS.IMAGE = CN({"WEIGHT": 0.1, "CONCENTRATION": 16.0, "SOURCE": "located"})
    # THRESHOLD: similarity from which on a label is propagated (3.9).
    node.RELATIONS.AFFINITY = CN({"WEIGHT": 0.0, "CONCENTRATION": 12.0, "THRESHOLD": 0.95})
    # Of the pixel classifier's cross entropy; published: the weight of the annotated class (fault a).
    node.PIXEL_LOSS_WEIGHT = 0.3
    # The norms of stages without gradient keep their statistics too (fault j: published ones move).
    node.FREEZE_STATISTICS = False
    # Faults a, g, k, q, r, s and aa of the card as published; h, j and l have keys of their own.
    node.OFFICIAL_COMPAT = False

    # Training images (4.3): side of the crop in pixels, range of the ratio of sizes, probabilities of a grey image and
    # of blur (0.3 and 0.5 in the classifier stage), pairs of classes (0 the background) that a mirrored image swaps;
    # width of scribbles and diameter of points as they are drawn on the image, in pixels (6).
    node.INPUT = CN()
    node.INPUT.CROP_SIZE = 512
    node.INPUT.SCALE_RANGE = (0.5, 1.5)
    node.INPUT.GRAYSCALE = 0.0
    node.INPUT.BLUR = 0.0
    node.INPUT.FLIP_PAIRS = ()
    node.INPUT.SCRIBBLE_WIDTH = 3.0
    node.INPUT.POINT_DIAMETER = 6.0

    # Learning rates relative to the backbone's weights (4.1).
    node.SOLVER = CN({"HEAD_LR_FACTOR": 10.0, "BIAS_LR_FACTOR": 2.0})

    # Prediction (5). PREDICTOR: softmax of the classifier, or retrieval of the nearest segments among the prototypes in
    # the folder MEMORY, which must be there from the start. SCALES: () resizes the longer side to IMAGE_SIZE; else
    # factors of the image's size, with FLIP each also mirrored. Tiles of CROP_SIZE, at most STRIDE apart, which is no
    # more than CROP_SIZE. TEST.CRF.* refines.
    node.TEST = CN()
    node.TEST.PREDICTOR = "softmax"
    node.TEST.IMAGE_SIZE = 512
    node.TEST.CROP_SIZE = 512
    node.TEST.STRIDE = 512
    node.TEST.SCALES = ()
    node.TEST.FLIP = False
    node.TEST.KMEANS_GRID = (12, 12)
    node.TEST.KMEANS_ITERATIONS = 10
    node.TEST.TOP_K = 20
    node.TEST.MEMORY = ""
    # Classify at the stride that the classifier was trained with, and resize the logits (fault l).
    node.TEST.CLASSIFY_AT_STRIDE_4 = False

    # Pseudo labels (3.11), METHOD: classifier_walk, cam_walk, classifier_only, nearest_segments, densepose_walk;
    # or prototypes, for retrieval. CRF: refine them with the values of TEST.CRF (never those of classifier_only). The
    # walk takes WALK_STEPS steps along the affinity to the POWER; ALPHA: power of the background score of CAMs;
    # MIN_PEAK: least divisor of the votes for a class; SCALES: views of prototypes.
    node.PSEUDO = CN()
    node.PSEUDO.METHOD = "classifier_walk"
    node.PSEUDO.CRF = True
    node.PSEUDO.ALPHA = 6.0
    node.PSEUDO.WALK_STEPS = 64
    node.PSEUDO.POWER = 20
    node.PSEUDO.MIN_PEAK = 0.15
    node.PSEUDO.SCALES = (0.5, 1.0, 1.5)

    # Class activation maps of a classifier of image tags (CAMHead): scales of the views, each also mirrored; least
    # score of a labelled pixel, from tags and inside a box.
    node.CAM = CN({"SCALES": (0.5, 1.0, 1.5, 2.0), "TAG_THRESHOLD": 0.2, "BOX_THRESHOLD": 0.5})
