"""What a person gave: the label file, `WeakLabels` in memory, geometry, and seeded samplers from dense truth."""

from weakseg.labels.build import decode_segmentation, encode_mask, weak_labels
from weakseg.labels.class_order import IGNORED, UNLABELLED, ClassOrder
from weakseg.labels.geometry import crop, hflip, resize
from weakseg.labels.label_file import LabelFile, read_label_file, write_label_file
from weakseg.labels.sampling import boxes_from_masks, sample_points, tags_from_masks
from weakseg.labels.weak_labels import NO_CLASS, LabelKind, WeakLabels

__all__ = [
    "IGNORED",
    "NO_CLASS",
    "UNLABELLED",
    "ClassOrder",
    "LabelFile",
    "LabelKind",
    "WeakLabels",
    "boxes_from_masks",
    "crop",
    "decode_segmentation",
    "encode_mask",
    "hflip",
    "read_label_file",
    "resize",
    "sample_points",
    "tags_from_masks",
    "weak_labels",
    "write_label_file",
]
