"""Networks of timm as backbones: the right maps, frozen norms, frozen stages."""

import pytest
import timm
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from torch.nn.modules.batchnorm import _BatchNorm

from weakseg.backbones.timm_backbone import TimmBackbone
from weakseg.config import add_weakseg_config

SMALL = "test_resnet"


def config(**changes):
    cfg = get_cfg()
    add_weakseg_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    cfg.MODEL.TIMM.NAME = SMALL
    for name, value in changes.items():
        cfg.MODEL.TIMM[name] = value
    return cfg


@pytest.mark.parametrize("name", [SMALL, "test_efficientnet", "test_convnext", "mobilenetv2_100"])
def test_maps_have_the_announced_channels_and_strides(name):
    backbone = TimmBackbone(name, out_features=("res2", "res3", "res4", "res5"))
    maps = backbone(torch.randn(1, 3, 64, 96))
    shapes = backbone.output_shape()
    assert list(maps) == list(shapes) == ["res2", "res3", "res4", "res5"]
    for feature, stride in zip(shapes, (4, 8, 16, 32)):
        assert shapes[feature].stride == stride
        assert maps[feature].shape == (1, shapes[feature].channels, 64 // stride, 96 // stride)
    assert backbone.size_divisibility == 32


def test_the_stem_is_the_map_of_stride_2():
    backbone = TimmBackbone(SMALL, out_features=("stem",))
    assert backbone.output_shape()["stem"].stride == 2
    assert backbone(torch.randn(1, 3, 64, 96))["stem"].shape[-2:] == (32, 48)


def test_channels_last_networks_give_channels_first_maps():
    backbone = TimmBackbone(
        "swin_tiny_patch4_window7_224", out_features=("res3",), img_size=(64, 96), depths=(1, 1, 1, 1)
    )
    assert backbone(torch.randn(1, 3, 64, 96))["res3"].shape == (1, 192, 8, 12)


def test_maps_are_those_of_timm():
    torch.manual_seed(0)
    backbone = TimmBackbone(SMALL).eval()
    network = timm.create_model(SMALL, features_only=True, out_indices=(2, 3, 4)).eval()
    network.load_state_dict(backbone.network.state_dict(), strict=False)
    image = torch.randn(1, 3, 64, 64)
    for ours, theirs in zip(backbone(image).values(), network(image)):
        torch.testing.assert_close(ours, theirs)


def test_further_arguments_reach_the_network():
    cfg = config(NAME="mobilenetv2_100")
    cfg.MODEL.TIMM.ARGUMENTS.pad_type = "same"
    torch.manual_seed(0)
    backbone = build_backbone(cfg).eval()
    plain = TimmBackbone("mobilenetv2_100").eval()
    plain.load_state_dict(backbone.state_dict())
    image = torch.randn(1, 3, 64, 64)
    assert not torch.allclose(backbone(image)["res3"], plain(image)["res3"])


def test_frozen_norms_stay_frozen_in_training():
    torch.manual_seed(0)
    backbone = build_backbone(config(NORM="frozen"))
    image = torch.randn(2, 3, 64, 64)
    in_evaluation = backbone.eval()(image)["res5"]
    torch.testing.assert_close(backbone.train()(image)["res5"], in_evaluation)
    trained = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert trained and not any("bn" in name for name in trained)


def test_norms_learn_when_asked():
    backbone = build_backbone(config(NORM="train")).train()
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
    assert norms and all(norm.weight.requires_grad for norm in norms)
    before = norms[0].running_mean.clone()
    backbone(torch.randn(2, 3, 64, 64))
    assert not torch.equal(norms[0].running_mean, before)


def test_first_stages_get_no_gradient():
    def trained(freeze_at):
        backbone = build_backbone(config(FREEZE_AT=freeze_at))
        return {name.split(".")[1] for name, parameter in backbone.named_parameters() if parameter.requires_grad}

    stages = {"layer1", "layer2", "layer3", "layer4"}
    assert trained(0) == stages | {"conv1"}
    assert trained(1) == stages
    assert trained(2) == stages - {"layer1"}
    assert trained(5) == set()


def test_stages_of_a_network_that_timm_flattens_are_frozen_too():
    backbone = TimmBackbone("test_convnext", freeze_at=2)
    for name, parameter in backbone.named_parameters():
        early = name.startswith(("network.stem", "network.stages_0.", "network.stages_1."))
        assert parameter.requires_grad != early, name


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"OUT_FEATURES": ("res3", "res6")}, "names among .*res5 for test_resnet, found 'res6'"),
        ({"NORM": "batch"}, "expected frozen or train, found 'batch'"),
        ({"FREEZE_AT": 6}, "from 0 to the 5 stages of test_resnet, found 6"),
        ({"NAME": "hrnet_w18_small", "FREEZE_AT": 2}, "stage after stage, found one without a module stage1"),
    ],
)
def test_wrong_configs_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(config(**changes))
