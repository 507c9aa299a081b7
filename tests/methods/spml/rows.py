"""The configs of SPML by stage, and what the card's table 3.12 weighs in its columns."""

from detectron2.config import CfgNode

from tiny import CONFIGS
from weakseg.engine.defaults import load_config

LEAVES = sorted(path.stem for path in (CONFIGS / "spml").glob("*.yaml") if not path.name.startswith("_"))

VOC = ["voc_tag", "voc_box", "voc_scribble", "voc_scribble_080", "voc_scribble_050", "voc_scribble_030", "voc_point"]
DENSEPOSE = ["densepose_point", "densepose_point_affinity"]
EMBEDDING = [*VOC, "voc_point_r50", *DENSEPOSE]
CLASSIFIER = [f"{row}_classifier" for row in EMBEDDING]
CAM = ["voc_cam", "voc_cam_mobilenet_small"]
SMALL = [f"voc_{labels}_mobilenet_small" for labels in ("tag", "box", "scribble", "point")]
OURS = [*CAM, *SMALL, *(f"voc_mobilenet_small_{last}" for last in ("classifier", "cross_entropy", "end_to_end"))]
"""In no table of the card."""

RELATIONS = ("annotation", "cooccurrence", "image", "affinity")
WEIGHTS = {
    "tag": (0.3, 0.3, 0.1, 0.0),
    "box": (0.3, 0.3, 0.1, 0.0),
    "scribble": (1.0, 0.5, 0.1, 0.0),
    "point": (0.1, 0.1, 0.1, 0.0),
    "DensePose as released": (1.0, 0.0, 0.1, 0.0),
    "DensePose as intended": (1.0, 0.0, 0.1, 0.5),
}
"""Of the relations, by column of the table (C, O, I, A)."""
SUPERVISION = {"tag": ("tags",), "box": ("boxes",), "scribble": ("scribbles",), "point": ("points",)}


def column_of(row: str) -> str:
    if row.startswith("densepose"):
        return "DensePose as intended" if "affinity" in row else "DensePose as released"
    return row.split("_")[1]


def config_of(row: str) -> CfgNode:
    return load_config(CONFIGS / f"spml/{row}.yaml")
