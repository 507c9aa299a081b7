"""The published SPML networks for parity tests, filled by the fixtures' rule."""

import re
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from parity.reference import fill_rule
from weakseg.backbones.deep_stem_resnet import DeepStemResNet
from weakseg.methods.spml.checkpoint import split_parts, to_ours, to_published
from weakseg.methods.spml.local_features import ColorFeatures
from weakseg.methods.spml.network import SPMLNetwork

PIXEL_MEAN = torch.tensor((0.485, 0.456, 0.406))
PIXEL_STD = torch.tensor((0.229, 0.224, 0.225))
PREDICTION_GAIN = 8.0
CLASSIFIER = "semantic_classifier."
KERNEL = "lfn.smooth_kernel.weight"


class Model(nn.Module):
    """The parts of a `WeaklySupervisedSegmenter` that hold tensors, under its names."""

    def __init__(self, *, depth, head, embedding_dim, num_classes, colors):
        super().__init__()
        self.backbone = DeepStemResNet(depth, out_features=("res2", "res3", "res4", "res5"), freeze_at=2)
        network = SPMLNetwork(
            self.backbone.output_shape()["res5"].channels,
            num_classes=num_classes,
            head=head,
            embedding_dim=embedding_dim,
            colors=ColorFeatures() if colors else None,
        )
        self.head = nn.ModuleDict({"network": network})

    @property
    def network(self) -> SPMLNetwork:
        return self.head["network"]


def cone() -> Tensor:
    """The kernel (3, 1, 5, 5) of the DensePose network (card 2.3, fault h)."""
    offset = torch.arange(5.0) - 2
    distance = (offset[:, None] ** 2 + offset**2).sqrt()
    return (distance / distance.sum()).expand(3, 1, 5, 5).clone()


def named_model(name: str, *, embedding_dim: int, num_classes: int) -> Model:
    """The model of a recorded file: `name` ends in data set, head and depth, as "voc_deeplab_101"."""
    data_set, head, depth = re.search(r"(voc|densepose)_(deeplab|pspnet)_(\d+)", name).groups()
    return Model(
        depth=int(depth),
        head=head,
        embedding_dim=embedding_dim,
        num_classes=num_classes,
        colors=data_set == "densepose",
    )


def model_of_shapes(shapes: dict[str, list[int]]) -> Model:
    """The model with the published tensors `shapes`, by "embedding_model..." and "prediction_model..."."""
    parts = split_parts(shapes)
    embedding, prediction = parts["embedding_model"], parts["prediction_model"]
    res4_blocks = {key.split(".")[2] for key in embedding if key.startswith("resnet_backbone.res4.")}
    return Model(
        depth={6: 50, 23: 101}[len(res4_blocks)],
        head="deeplab" if "aspp.aspp_1.0.weight" in embedding else "pspnet",
        embedding_dim=prediction[CLASSIFIER + "0.weight"][1],
        num_classes=prediction[CLASSIFIER + "4.weight"][0],
        colors=KERNEL in embedding,
    )


def published_values(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Values of the published tensors `shapes` by the fill rule; the kernel is a constant."""
    rule, values = fill_rule(), {}
    for part, tensors in split_parts(shapes).items():
        gain = PREDICTION_GAIN if part == "prediction_model" else 1.0
        for key, shape in tensors.items():
            if key.endswith("num_batches_tracked"):
                values[f"{part}.{key}"] = torch.zeros(shape, dtype=torch.int64)
            elif key == KERNEL:
                values[f"{part}.{key}"] = cone()
            else:
                values[f"{part}.{key}"] = torch.from_numpy(rule.fill(key, tuple(shape), gain))
    return values


def fill(model: Model) -> Model:
    """`model`, in evaluation mode, with the fixtures' weights."""
    shapes = {key: tuple(value.shape) for key, value in to_published(model.state_dict()).items()}
    # `assign` takes the tensors as they are: nothing of their size is allocated twice.
    model.load_state_dict(to_ours(published_values(shapes)), strict=True, assign=True)
    return model.eval()


def filled_model(name: str, *, embedding_dim: int, num_classes: int) -> Model:
    """`named_model` with the fixtures' weights."""
    with torch.device("meta"):
        model = named_model(name, embedding_dim=embedding_dim, num_classes=num_classes)
    return fill(model)


def fill_module(module: nn.Module, rename) -> nn.Module:
    """Fill a part of a network by the published names that `rename` gives its tensors."""
    rule = fill_rule()
    state = module.state_dict()
    for key, value in state.items():
        if value.is_floating_point():
            value.copy_(torch.from_numpy(rule.fill(rename(key), tuple(value.shape))))
    return module


PUBLISHED = SimpleNamespace(
    weight_decay=5e-4,
    momentum=0.9,
    base_lr=3e-3,
    warmup=100,
    iterations=30000,
    classifier_iterations=4000,
    norm_momentum=3e-4,
    norm_eps=1e-5,
)
"""Constants of the release (card 3.12, 4) that the recorded files take for granted."""
