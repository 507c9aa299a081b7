"""A head that learns nothing and makes pseudo labels of nothing but points."""

import torch
from torch import nn

from weakseg.heads import WEAK_HEAD_REGISTRY, WeakHead
from weakseg.labels import NO_CLASS, LabelKind


@WEAK_HEAD_REGISTRY.register()
class FirstPointHead(WeakHead):
    """The class of the first point everywhere."""

    accepts = frozenset({LabelKind.POINTS})

    def __init__(self, cfg, input_shape):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def pseudo_labels(self, model, images, batch):
        assert not model.training
        results = []
        for sample in batch:
            weak = sample["weak"]
            first = int(weak.classes[weak.point_target[0]]) if len(weak.points) else NO_CLASS
            results.append({"sem_seg": torch.full((sample["height"], sample["width"]), first)})
        return results


@WEAK_HEAD_REGISTRY.register()
class PredictingHead(WeakHead):
    """A head without pseudo labels."""

    accepts = frozenset({LabelKind.POINTS})

    def __init__(self, cfg, input_shape):
        super().__init__()
