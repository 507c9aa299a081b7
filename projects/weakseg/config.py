"""The configuration keys that all methods share; each method adds its own under `MODEL.<METHOD>`."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from weakseg.methods.point2mask.config import add_point2mask_config
from weakseg.methods.spml.config import add_spml_config


def add_weakseg_config(cfg: CN) -> None:
    """Add WeakSeg's keys to Detectron2's default config, in place."""
    cfg.MODEL.META_ARCHITECTURE = "WeaklySupervisedSegmenter"
    cfg.MODEL.WEAK_HEAD = CN()
    cfg.MODEL.WEAK_HEAD.NAME = ""

    # ImageNet weights of the backbone alone, in the key names of torchvision (ResNet) or timm; "" starts at random.
    cfg.MODEL.BACKBONE.WEIGHTS = ""
    # Any feature network of the library timm (MODEL.BACKBONE.NAME: build_timm_backbone).
    cfg.MODEL.TIMM = CN()
    cfg.MODEL.TIMM.NAME = "mobilenetv2_100"
    # Feature maps to hand out: res2..res5 are the maps of stride 4, 8, 16, 32.
    cfg.MODEL.TIMM.OUT_FEATURES = ("res3", "res4", "res5")
    # "frozen": norm layers keep their statistics and get no gradient; "train": they learn like other layers.
    cfg.MODEL.TIMM.NORM = "frozen"
    # Number of stages, from the stem on, that get no gradient.
    cfg.MODEL.TIMM.FREEZE_AT = 0
    # Further arguments of the network, as timm names them.
    cfg.MODEL.TIMM.ARGUMENTS = CN(new_allowed=True)

    # Swin Transformer (MODEL.BACKBONE.NAME: build_swin_backbone); the values are those of Swin-L.
    cfg.MODEL.SWIN = CN()
    cfg.MODEL.SWIN.EMBED_DIM = 192
    cfg.MODEL.SWIN.DEPTHS = (2, 2, 18, 2)
    cfg.MODEL.SWIN.NUM_HEADS = (6, 12, 24, 48)
    # Side of an attention window, in patches of 4 x 4 pixels.
    cfg.MODEL.SWIN.WINDOW_SIZE = 7
    # Rises linearly from 0 at the first block to this at the last.
    cfg.MODEL.SWIN.DROP_PATH_RATE = 0.3
    # Feature maps to hand out: res2..res5 are the maps of stride 4, 8, 16, 32.
    cfg.MODEL.SWIN.OUT_FEATURES = ("res3", "res4", "res5")
    # Recompute each block in the backward pass instead of keeping what it computed.
    cfg.MODEL.SWIN.GRADIENT_CHECKPOINTING = False

    # What a run may see of the label file: points, scribbles, boxes, tags, masks, expressions.
    cfg.INPUT.SUPERVISION = ("points",)
    # What a program made for each image: names in PROPOSAL_LOADER_REGISTRY.
    cfg.INPUT.EVIDENCE = ()
    # Folder of edge maps as tools/make_edges.py writes them (evidence "edges").
    cfg.INPUT.EDGE_ROOT = ""
    # Folder of region maps as tools/make_oversegmentation.py writes them (evidence "regions").
    cfg.INPUT.REGION_ROOT = ""
    # Folder of label maps, one PNG an image: 0 the background, from 1 on the other classes in their order, 255 ignored,
    # any other value unlabelled (evidence "semantic"); tools/make_pseudo_labels.py writes such.
    cfg.INPUT.SEMANTIC_ROOT = ""
    # Folder of class activation maps (evidence "cams").
    cfg.INPUT.CAM_ROOT = ""
    # Entry of AUGMENTATION_REGISTRY.
    cfg.INPUT.AUGMENTATION = "resize_flip"
    # Folder of the images when DATASETS.TRAIN / TEST name label files (*.json) instead of registered data sets; "" is
    # the folder of each label file.
    cfg.DATASETS.IMAGE_ROOT = ""

    cfg.SOLVER.OPTIMIZER = "AdamW"
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    # Micro-batches per optimiser step; IMS_PER_BATCH stays the number of images per step over all processes.
    cfg.SOLVER.ACCUMULATE = 1
    # "float16" (GPU) or "bfloat16" (GPU and CPU); used when SOLVER.AMP.ENABLED.
    cfg.SOLVER.AMP.DTYPE = "float16"
    cfg.SOLVER.EMA = CN({"ENABLED": False, "DECAY": 0.999})

    # What inference may see of the labels: points, tags, proposals.
    cfg.TEST.INPUTS = ()
    # Folder for one picture per test image; "" draws none.
    cfg.TEST.SHOW_DIR = ""
    # Dense CRF over the scores of semantic predictions and pseudo labels: weight and standard deviation (pixels) of the
    # Gaussian kernel; weight, standard deviations (pixels, steps of 0..255 colours) of the bilateral one. ENGINE:
    # lattice, or pydensecrf (a compiled library).
    cfg.TEST.CRF = CN({"ENABLED": False, "ENGINE": "lattice", "ITERATIONS": 10})
    cfg.TEST.CRF.update({"POS_W": 3.0, "POS_XY": 1.0, "BI_W": 4.0, "BI_XY": 67.0, "BI_RGB": 3.0})

    # Results of VOC test splits: "comp6" for any training data, "comp5" for VOC's alone.
    cfg.TEST.VOC_COMPETITION = "comp6"

    add_point2mask_config(cfg)
    add_spml_config(cfg)
