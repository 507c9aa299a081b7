"""What a person gave: the label file, `WeakLabels` in memory, geometry, and seeded samplers from dense truth."""

from weakseg.labels.weak_labels import LabelKind, WeakLabels

__all__ = ["LabelKind", "WeakLabels"]
