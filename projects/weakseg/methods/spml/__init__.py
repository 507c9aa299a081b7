"""SPML: semantic segmentation from tags, boxes, scribbles or points by pixel-to-segment contrast (arXiv 2105.00957)."""
