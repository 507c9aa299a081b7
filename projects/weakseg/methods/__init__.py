"""The five published systems, a room each; importing a room registers its head and augmentation."""

from weakseg.methods import point2mask, spml

__all__ = ["point2mask", "spml"]
