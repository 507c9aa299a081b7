"""SPML: semantic segmentation from tags, boxes, scribbles or points by pixel-to-segment contrast (arXiv 2105.00957)."""

from weakseg.methods.spml import label_maps
from weakseg.methods.spml.cam_head import CAMHead
from weakseg.methods.spml.classifier_stage import SPMLClassifierHead
from weakseg.methods.spml.head import SPMLHead

__all__ = ["CAMHead", "SPMLClassifierHead", "SPMLHead", "label_maps"]
