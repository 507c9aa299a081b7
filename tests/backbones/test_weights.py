"""Starting a backbone from a local file."""

import pytest
import timm
import torch
import torchvision
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_resnet_backbone
from safetensors.torch import load_file, save_file

from weakseg.backbones import TimmBackbone, load_backbone_weights

SMALL = "test_resnet"


def resnet18():
    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3"]
    return build_resnet_backbone(cfg, ShapeSpec(channels=3))


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_a_detectron2_resnet_reads_torchvision_names(tmp_path, wrapper):
    torch.manual_seed(0)
    state = {name: torch.rand(value.shape) for name, value in torchvision.models.resnet18().state_dict().items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "resnet.pth")
    backbone = resnet18()
    load_backbone_weights(backbone, tmp_path / "resnet.pth")
    assert torch.equal(backbone.stem.conv1.norm.bias, state["bn1.bias"])
    assert torch.equal(backbone.res2[1].conv2.weight, state["layer1.1.conv2.weight"])
    assert torch.equal(backbone.res3[0].shortcut.norm.running_var, state["layer2.0.downsample.1.running_var"])


def test_a_resnet_reads_its_own_names(tmp_path):
    source, target = resnet18(), resnet18()
    torch.save(source.state_dict(), tmp_path / "own.pth")
    load_backbone_weights(target, tmp_path / "own.pth")
    for name, value in source.state_dict().items():
        assert torch.equal(value, target.state_dict()[name]), name


@pytest.mark.parametrize("name", [SMALL, "test_convnext"])
@pytest.mark.parametrize("frozen_norm", [True, False])
def test_a_timm_backbone_reads_the_names_of_the_whole_network(tmp_path, name, frozen_norm):
    torch.manual_seed(0)
    whole = timm.create_model(name).eval()
    save_file({key: value.half() for key, value in whole.state_dict().items()}, tmp_path / "whole.safetensors")
    backbone = TimmBackbone(name, frozen_norm=frozen_norm).eval()
    load_backbone_weights(backbone, tmp_path / "whole.safetensors")
    image = torch.randn(1, 3, 64, 64)
    last = backbone(image)["res5"]
    assert last.dtype == torch.float32
    with torch.no_grad():
        expected = whole.float().forward_intermediates(image, intermediates_only=True)[-1]
    torch.testing.assert_close(last, expected, rtol=1e-2, atol=1e-2)


def test_what_is_missing_or_of_another_shape_is_counted(tmp_path):
    backbone = TimmBackbone(SMALL)
    state = {key: value.clone() for key, value in backbone.network.state_dict().items()}
    total = len(state)
    first, second, *_ = (key for key in sorted(state) if key.endswith("weight"))
    del state[first]
    state[second] = torch.zeros(3)
    path = tmp_path / "part.safetensors"
    save_file(state, path)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    message = f"part.safetensors: expected {total} parameters of the backbone, found {total - 2}, and 2 are"
    with pytest.raises(ValueError, match=message):
        load_backbone_weights(backbone, path)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_published_imagenet_weights_give_the_features_of_the_classifier(data_dir):
    path = data_dir / "weights" / "mobilenetv2_100_imagenet_fp16.safetensors"
    backbone = TimmBackbone("mobilenetv2_100", pad_type="same").eval()
    load_backbone_weights(backbone, path)
    classifier = timm.create_model("mobilenetv2_100", pad_type="same").eval()
    classifier.load_state_dict({k: v.float() for k, v in load_file(path).items()}, strict=False)
    image = torch.randn(1, 3, 64, 64)
    last = []
    classifier.blocks[6].register_forward_hook(lambda module, args, output: last.append(output))
    with torch.no_grad():
        classifier(image)
        torch.testing.assert_close(backbone(image)["res5"], last[0], rtol=1e-4, atol=1e-4)
