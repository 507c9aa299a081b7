"""A torchvision ResNet and Detectron2's give the same maps from the same weights."""

import pytest
import torch
import torchvision
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_resnet_backbone

from weakseg.backbones.torchvision_names import detectron2_name, from_torchvision, torchvision_name


@torch.no_grad()
def test_detectron2_computes_what_torchvision_computes():
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50().eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.normal_(1, 0.1)
            module.bias.normal_(std=0.1)
    cfg = get_cfg()
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res5"]
    ours = build_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()
    ours.load_state_dict(from_torchvision(theirs.state_dict()), strict=True)
    image = torch.randn(1, 3, 45, 64)
    stem = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
    res2 = theirs.layer1(stem)
    res5 = theirs.layer4(theirs.layer3(theirs.layer2(res2)))
    maps = ours(image)
    torch.testing.assert_close(maps["res2"], res2, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(maps["res5"], res5, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "theirs, ours",
    [
        ("conv1.weight", "stem.conv1.weight"),
        ("bn1.bias", "stem.conv1.norm.bias"),
        ("layer3.22.conv3.weight", "res4.22.conv3.weight"),
        ("layer1.0.bn3.running_mean", "res2.0.conv3.norm.running_mean"),
        ("layer2.0.downsample.0.weight", "res3.0.shortcut.weight"),
        ("layer2.0.downsample.1.weight", "res3.0.shortcut.norm.weight"),
    ],
)
def test_names_in_both_directions(theirs, ours):
    assert detectron2_name(theirs) == ours
    assert torchvision_name(ours) == theirs


def test_classifier_and_batch_counters_are_left_out():
    weights = {"fc.weight": 0, "fc.bias": 0, "bn1.num_batches_tracked": 0, "conv1.weight": 1}
    assert from_torchvision(weights) == {"stem.conv1.weight": 1}
