"""From label files to batches: catalogue, supervision gate, mapper, augmentations, seeded loaders."""

from weakseg.data.augmentation import AUGMENTATION_REGISTRY
from weakseg.data.catalog import class_counts, dataset_metadata, dataset_names, metadata_of, register_label_file
from weakseg.data.gate import gate
from weakseg.data.loader import build_test_loader, build_train_loader
from weakseg.data.mapper import WeakMapper

__all__ = [
    "AUGMENTATION_REGISTRY",
    "WeakMapper",
    "build_test_loader",
    "build_train_loader",
    "class_counts",
    "dataset_metadata",
    "dataset_names",
    "gate",
    "metadata_of",
    "register_label_file",
]
