"""WeakSeg: segmentation from cheap labels, as heads of one Detectron2 meta-architecture.

Importing the package registers the meta-architecture, the heads, their backbones, data sets, augmentations and proposal
loaders with Detectron2's registries.
"""

__version__ = "0.1.0"

from weakseg import backbones, data, methods, proposals, segmenter  # noqa: E402  (they read __version__)
from weakseg.config import add_weakseg_config  # noqa: E402

__all__ = ["add_weakseg_config", "backbones", "data", "methods", "proposals", "segmenter"]
