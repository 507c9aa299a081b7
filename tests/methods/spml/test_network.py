"""Embedding, local features and groups of the network behind the backbone."""

import pytest
import torch
import torch.nn.functional as F

from weakseg.backbones.deep_stem_resnet import DeepStemResNet
from weakseg.methods.spml.local_features import ColorFeatures
from weakseg.methods.spml.network import SPMLNetwork, parameter_groups


def network(**arguments):
    torch.manual_seed(0)
    return SPMLNetwork(8, **{"num_classes": 3, "embedding_dim": 4, "norm": "BN", **arguments}).eval()


def backbone(**arguments):
    return DeepStemResNet(50, stem_channels=8, res2_channels=16, width=4, norm="BN", **arguments)


@torch.no_grad()
def test_the_embedding_has_twice_the_size():
    net, x = network(), torch.randn(2, 8, 5, 7)
    raw = net.embedding_head(x)
    doubled = F.interpolate(raw, (10, 14), mode="bilinear", align_corners=False)
    torch.testing.assert_close(net(x), doubled)


@torch.no_grad()
@pytest.mark.parametrize("size, expected", [((65, 64), (18, 16)), ((33, 47), (10, 12)), ((8, 1), (2, 2))])
def test_sizes_behind_the_backbone(size, expected):
    torch.manual_seed(0)
    net = SPMLNetwork(128, num_classes=3, embedding_dim=4)
    assert net(backbone().eval()(torch.zeros(1, 3, *size))["res5"]).shape[-2:] == expected


@torch.no_grad()
def test_other_strides_give_stride_four_too():
    x = torch.randn(1, 8, 2, 3)
    assert network(feature_stride=16)(x).shape == (1, 4, 8, 12)
    assert network(feature_stride=4)(x).shape == (1, 4, 2, 3)


@torch.no_grad()
def test_half_precision_gives_a_float32_embedding():
    net, x = network(), torch.randn(1, 8, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = net(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, net(x), rtol=0.03, atol=0.03)


def test_heads_by_name():
    assert network(head="pspnet").embedding_head.project.out_channels == 4
    with pytest.raises(ValueError, match="MODEL.SPML.HEAD: expected deeplab or pspnet; found 'fpn'"):
        network(head="fpn")


def test_local_features():
    images = torch.randn(2, 3, 20, 24)
    local = network().local_features(images, (2, 3))
    torch.testing.assert_close(
        local,
        torch.tensor([[[-0.5, -0.5], [-0.5, 0.0], [-0.5, 0.5]], [[0.5, -0.5], [0.5, 0.0], [0.5, 0.5]]]),
    )
    net = network(colors=ColorFeatures())
    with_colors = net.local_features(images, (2, 3))
    assert with_colors.shape == (2, 2, 3, 5) and not with_colors.requires_grad
    assert torch.equal(with_colors[1, ..., :2], local)
    assert torch.equal(with_colors[..., 2:], net.colors(images, (2, 3)))


def test_groups_hold_everything_that_has_a_gradient_once():
    net, body = network(head="pspnet", colors=ColorFeatures()), backbone(freeze_at=2)
    groups = parameter_groups(body, net)
    assert [(g["lr_mult"], g["decay_mult"]) for g in groups] == [(1, 1), (2, 0), (10, 1), (20, 0)]
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    trainable = [id(p) for module in (body, net) for p in module.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trainable)
    members = [{id(parameter) for parameter in group["params"]} for group in groups]
    norm = body.res3[0].conv1.norm
    assert id(norm.weight) in members[0] and id(norm.bias) in members[1]
    assert id(net.classifier.norm.weight) in members[2] and id(net.classifier.predict.bias) in members[3]


def test_factors_of_the_groups():
    groups = parameter_groups(backbone(), network(), head_lr_factor=3, bias_lr_factor=4)
    assert [g["lr_mult"] for g in groups] == [1, 4, 3, 12]


def test_a_frozen_embedding_leaves_the_classifier():
    net, body = network(), backbone().requires_grad_(False)
    net.embedding_head.requires_grad_(False)
    groups = parameter_groups(body, net)
    assert [len(group["params"]) for group in groups] == [0, 0, 3, 2]
