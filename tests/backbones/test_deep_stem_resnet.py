"""The deep-stem ResNet, layer by layer with torch's own, and what is frozen."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

from weakseg.backbones.deep_stem_resnet import (
    DeepStemResNet,
    build_deep_stem_resnet_backbone,
    from_imagenet,
    imagenet_name,
    our_name,
)
from weakseg.layers.sync_batch_norm import SyncBatchNorm

ALL = ("stem", "res2", "res3", "res4", "res5")


def small(depth=50, **arguments):
    torch.manual_seed(0)
    arguments = {"stem_channels": 8, "res2_channels": 16, "width": 4, "norm": "BN", "out_features": ALL, **arguments}
    return DeepStemResNet(depth, **arguments)


def randomised(backbone):
    for name, value in backbone.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point() and value.dim() == 1:
            value.normal_(0.5, 0.2)
    return backbone


def literal(state, x, depth):
    """The network of card section 2.1 from the tensors under their ImageNet names."""

    def conv(x, name, stride=1, dilation=1):
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=dilation * (weight.shape[-1] // 2), dilation=dilation)

    def norm(x, name):
        mean, variance, weight, bias = (
            state[f"{name}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias

    x = norm(conv(x, "conv1.0", stride=2), "conv1.1").relu()
    x = norm(conv(x, "conv1.3"), "conv1.4").relu()
    x = norm(conv(x, "conv1.6"), "bn1").relu()
    maps = [F.max_pool2d(x, 3, 2, 1)]
    table = {
        "layer1": (3, 1, [1] * 3),
        "layer2": (4, 2, [1] * 4),
        "layer3": (6, 1, [1] + [2] * 5) if depth == 50 else (23, 1, [1] + [2] * 22),
        "layer4": (3, 1, [2, 4, 4]),
    }
    for layer, (blocks, first_stride, dilations) in table.items():
        x = maps[-1]
        for i in range(blocks):
            name, stride = f"{layer}.{i}", first_stride if i == 0 else 1
            y = norm(conv(x, f"{name}.conv1"), f"{name}.bn1").relu()
            y = norm(conv(y, f"{name}.conv2", stride, dilations[i]), f"{name}.bn2").relu()
            y = norm(conv(y, f"{name}.conv3"), f"{name}.bn3")
            if i == 0:
                x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            x = (x + y).relu()
        maps.append(x)
    return maps


@torch.no_grad()
@pytest.mark.parametrize("depth", [50, 101])
def test_maps_are_those_of_the_card(depth):
    backbone = randomised(small(depth)).double().eval()
    image = torch.randn(2, 3, 65, 50, dtype=torch.float64)
    state = {imagenet_name(name): value for name, value in backbone.state_dict().items()}
    found = backbone(image)
    assert list(found) == list(ALL)
    for (name, feature), expected in zip(found.items(), literal(state, image, depth)):
        torch.testing.assert_close(feature, expected, msg=lambda text, name=name: f"{name}: {text}")
    # n -> floor((n - 1) / 2) + 1 for each stride of 2.
    assert [tuple(feature.shape[-2:]) for feature in found.values()] == [(17, 13), (17, 13), (9, 7), (9, 7), (9, 7)]


def test_shapes_that_it_promises():
    shapes = {name: (shape.channels, shape.stride) for name, shape in small().output_shape().items()}
    assert shapes == {"stem": (8, 4), "res2": (16, 4), "res3": (32, 8), "res4": (64, 8), "res5": (128, 8)}


@torch.no_grad()
def test_one_pixel():
    assert small().eval()(torch.ones(1, 3, 1, 1))["res5"].shape == (1, 128, 1, 1)


def test_initialisation():
    backbone = small(stem_channels=64, width=32)
    for conv, fan_out in (
        (backbone.stem.conv2, 9 * 32),
        (backbone.res3[1].conv2, 9 * 64),
        (backbone.res5[0].conv3, 128),
    ):
        assert conv.bias is None
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    norms = [module for module in backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == 3 + 3 * 16 + 4
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-5, 3e-4)}
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in norms)


def test_frozen_stages_get_no_gradient_but_their_statistics_move():
    backbone = small(freeze_at=2)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    sum(feature.sum() for feature in backbone(torch.randn(2, 3, 32, 32)).values()).backward()
    for name, parameter in backbone.named_parameters():
        frozen = name.startswith(("stem.", "res2."))
        assert parameter.requires_grad == (not frozen), name
        assert (parameter.grad is None) == frozen, name
    for name, value in backbone.state_dict().items():
        if "running" in name:
            assert not torch.equal(value, before[name]), name


@pytest.mark.parametrize("freeze_at, expected", [(0, set()), (1, {"stem"}), (3, {"stem", "res2", "res3"})])
def test_number_of_frozen_stages(freeze_at, expected):
    backbone = small(freeze_at=freeze_at)
    assert {name.split(".")[0] for name, p in backbone.named_parameters() if not p.requires_grad} == expected


def test_it_is_built_from_detectron2s_keys():
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.merge_from_list(["NAME", "build_deep_stem_resnet_backbone", "FREEZE_AT", 1])
    cfg.MODEL.RESNETS.merge_from_list(
        ["DEPTH", 101, "NORM", "SyncBN", "STEM_OUT_CHANNELS", 8, "RES2_OUT_CHANNELS", 16, "WIDTH_PER_GROUP", 4]
        + ["OUT_FEATURES", ["res4", "res5"]]
    )
    backbone = build_backbone(cfg)
    assert list(backbone.output_shape()) == ["res4", "res5"]
    assert len(backbone.res4) == 23 and backbone.res2[0].conv2.out_channels == 4
    assert isinstance(backbone.stem.conv3.norm, SyncBatchNorm)
    assert not backbone.stem.conv1.weight.requires_grad and backbone.res2[0].conv1.weight.requires_grad
    four = build_deep_stem_resnet_backbone(cfg, ShapeSpec(channels=4))
    assert four.stem.conv1.in_channels == 4


def test_other_depths_are_refused():
    with pytest.raises(ValueError, match="expected 50 or 101 .*found 34"):
        small(34)


@pytest.mark.parametrize(
    "theirs, ours",
    [
        ("conv1.0.weight", "stem.conv1.weight"),
        ("conv1.1.bias", "stem.conv1.norm.bias"),
        ("conv1.3.weight", "stem.conv2.weight"),
        ("conv1.4.running_mean", "stem.conv2.norm.running_mean"),
        ("conv1.6.weight", "stem.conv3.weight"),
        ("bn1.num_batches_tracked", "stem.conv3.norm.num_batches_tracked"),
        ("layer3.22.conv1.weight", "res4.22.conv1.weight"),
        ("layer1.0.bn2.running_var", "res2.0.conv2.norm.running_var"),
        ("layer2.0.downsample.0.weight", "res3.0.shortcut.weight"),
        ("layer2.0.downsample.1.weight", "res3.0.shortcut.norm.weight"),
    ],
)
def test_names_in_both_directions(theirs, ours):
    assert our_name(theirs) == ours
    assert imagenet_name(ours) == theirs


def test_the_imagenet_classifier_is_left_out():
    assert from_imagenet({"fc.weight": 0, "fc.bias": 0, "bn1.weight": 1}) == {"stem.conv3.norm.weight": 1}
