"""Point2Mask: points to panoptic masks through optimal transport (ICCV 2023, arXiv 2308.01779)."""

from weakseg.methods.point2mask import augmentation
from weakseg.methods.point2mask.head import Point2MaskHead

__all__ = ["Point2MaskHead", "augmentation"]
