"""The whole published Point2Mask model (ResNet, network, counter) for parity tests, filled by the fixtures' rule."""

import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_resnet_backbone
from torch import Tensor, nn

from parity.reference import Reference, fill_rule
from weakseg.methods.point2mask.checkpoint import to_ours, to_published
from weakseg.methods.point2mask.network import Point2MaskNetwork


def build_model(depth: int, *, num_things: int, num_stuff: int, dropout: float = 0.1) -> nn.Module:
    """Backbone and network of the published configs, named as in `WeaklySupervisedSegmenter`."""
    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    model = nn.Module()
    model.backbone = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    model.head = nn.Module()
    channels = [spec.channels for spec in model.backbone.output_shape().values()]
    model.head.network = Point2MaskNetwork(channels, num_things=num_things, num_stuff=num_stuff, dropout=dropout)
    model.head.register_buffer("iteration", torch.zeros(1, dtype=torch.int64))
    return model


def filled_state(model: nn.Module, ref: Reference) -> dict[str, Tensor]:
    """The state that the fixtures were recorded with, under our names: the fill rule, then the overrides of `ref`."""
    rule = fill_rule()
    published = to_published(model.state_dict())
    for key, tensor in published.items():
        if tensor.is_floating_point():
            published[key] = torch.from_numpy(rule.fill(key, tuple(tensor.shape)))
    published["bbox_head._iter"].zero_()
    for name in ref.keys():
        if name.startswith("override/"):
            published[name.removeprefix("override/")] = ref.tensor(name)
    return to_ours(published)


def input_batch(ref: Reference) -> tuple[Tensor, list[tuple[int, int]]]:
    """The network input (B, 3, H, W) of the images image0, image1, ..., and their sizes (h, w)."""
    mean = torch.tensor([123.675, 116.28, 103.53])
    std = torch.tensor([58.395, 57.12, 57.375])
    padded_size, *image_sizes = [tuple(size) for size in ref["shapes"].tolist()]
    batch = torch.zeros(len(image_sizes), 3, *padded_size)
    for index, (h, w) in enumerate(image_sizes):
        image = ref.tensor(f"image{index}").float()
        batch[index, :, :h, :w] = ((image - mean) / std).permute(2, 0, 1)
    return batch, image_sizes
