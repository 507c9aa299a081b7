"""WeakSeg: segmentation from cheap labels, as heads of one Detectron2 meta-architecture."""

__version__ = "0.1.0"
