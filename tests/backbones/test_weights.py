"""Starting a backbone from a local file."""

import re

import pytest
import timm
import torch
import torchvision
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_resnet_backbone
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import ImageNetInfo, create_transform

from tiny import CONFIGS
from weakseg.backbones import DeepStemResNet, SwinBackbone, TimmBackbone, load_backbone_weights
from weakseg.backbones.deep_stem_resnet import imagenet_name
from weakseg.backbones.swin import resize_position_table
from weakseg.engine.defaults import load_config
from weakseg.zoo.published import hint

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


def test_a_deep_stem_resnet_reads_published_names_and_its_own(tmp_path):
    sizes = {"in_channels": 3, "stem_channels": 8, "res2_channels": 8, "width": 4, "norm": "BN"}
    source, target = (DeepStemResNet(50, **sizes, out_features=("res5",), freeze_at=0) for _ in range(2))
    published = {imagenet_name(name): value for name, value in source.state_dict().items()}
    torch.save(published | {"fc.weight": torch.ones(2, 2)}, tmp_path / "published.pth")
    load_backbone_weights(target, tmp_path / "published.pth")
    assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values()))
    torch.save(source.state_dict(), tmp_path / "own.pth")
    load_backbone_weights(target, tmp_path / "own.pth")


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


PHOTOS = {
    "2007_000720": ("Blenheim spaniel", 0.77),
    "2007_003110": ("standard poodle", 0.82),
    "2007_000033": ("airliner", 0.71),
    "2007_002088": ("ox", 0.90),
    "2007_000363": ("lorikeet", 1.00),
}
"""Photos of the sample data -> what the MobileNetV2 beside them says, as its source was checked."""


def photos(data_dir, mean, std, size=224):
    """The middle of each photo, (N, 3, size, size), normalised; mean, std: of pixel values 0..1."""
    transform = create_transform((3, size, size), mean=mean, std=std, interpolation="bicubic")
    paths = [data_dir / "voc" / "JPEGImages" / f"{name}.jpg" for name in PHOTOS]
    return torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])


def loaded(config, weights, arguments=None):
    """The backbone of a config, with `weights`; arguments: MODEL.TIMM.ARGUMENTS."""
    cfg = load_config(CONFIGS / "point2mask" / config)
    cfg.MODEL.TIMM.ARGUMENTS.update(arguments or {})
    backbone = build_backbone(cfg).eval()
    load_backbone_weights(backbone, weights)
    return backbone


def test_published_imagenet_weights_give_the_features_of_the_classifier(data_dir):
    path = data_dir / "weights" / "mobilenetv2_100_imagenet_fp16.safetensors"
    padding = {"pad_type": "same"}  # as these weights were trained
    backbone = loaded("voc_mobilenet_small.yaml", path, padding)
    classifier = timm.create_model("mobilenetv2_100", **padding).eval()
    classifier.load_state_dict({k: v.float() for k, v in load_file(path).items()}, strict=False)
    images = photos(data_dir, (0.5,) * 3, (0.5,) * 3)
    with torch.no_grad():
        expected = classifier.forward_intermediates(images, indices=[2, 3, 4], intermediates_only=True)
        maps = backbone(images)
        for found, feature in zip(maps.values(), expected, strict=True):
            torch.testing.assert_close(found, feature, rtol=1e-4, atol=1e-4)
        said = classifier.forward_head(classifier.bn2(classifier.conv_head(maps["res5"]))).softmax(1)
        torch.testing.assert_close(said, classifier(images).softmax(1), rtol=1e-3, atol=1e-5)
    names = ImageNetInfo()
    for (probability, index), (name, known) in zip(zip(*said.max(1)), PHOTOS.values(), strict=True):
        assert names.index_to_description(index.item()).split(",")[0] == name
        assert probability.item() == pytest.approx(known, abs=0.1)


def test_weights_of_a_resnet_give_the_features_of_torchvision(data_dir, tmp_path):
    source = torchvision.models.resnet50()
    generator = torch.Generator().manual_seed(0)
    for name, value in source.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith(("running_mean", "bias")):
            value.normal_(0, 0.1, generator=generator)
        elif value.dim() == 1:
            value.normal_(1, 0.1, generator=generator)
    torch.save(source.state_dict(), tmp_path / "resnet.pth")
    backbone = loaded("voc_r50.yaml", tmp_path / "resnet.pth")
    images = photos(data_dir, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), size=96)[:2]
    with torch.no_grad():
        stem = source.eval().maxpool(source.relu(source.bn1(source.conv1(images))))
        res3 = source.layer2(source.layer1(stem))
        res4 = source.layer3(res3)
        maps = backbone(images)
        for found, feature in zip(maps.values(), (res3, res4, source.layer4(res4)), strict=True):
            torch.testing.assert_close(found, feature, rtol=1e-3, atol=1e-4)
        logits = source.fc(source.avgpool(maps["res5"]).flatten(1))
        torch.testing.assert_close(logits, source(images), rtol=1e-3, atol=1e-4)


SWIN = {"embed_dim": 16, "depths": (2, 1), "num_heads": (2, 4), "out_features": ("res2", "res3")}


def published_swin(window_size=7):
    """A network of random weights in the layout of the published ImageNet files, and the backbone with its weights."""
    torch.manual_seed(0)
    network = SwinBackbone(**SWIN, window_size=window_size)
    state = {name: torch.randn(value.shape) for name, value in network.state_dict().items() if value.dim()}
    own = {name: value for name, value in state.items() if not name.startswith("norm")}
    extra = {"head.weight": torch.zeros(9, 32), "head.bias": torch.zeros(9), "norm.weight": torch.zeros(32)}
    extra |= {"norm.bias": torch.zeros(32), "layers.0.blocks.1.attn_mask": torch.zeros(4, 49, 49)}
    return network, {"model": own | extra}


def test_a_swin_reads_the_published_layout_and_its_norms_start_new(tmp_path, caplog):
    network, content = published_swin()
    torch.save(content, tmp_path / "swin.pth")
    backbone = SwinBackbone(**SWIN).eval()
    index = backbone.layers[0].blocks[0].attn.relative_position_index.clone()
    with caplog.at_level("INFO", logger="weakseg"):
        load_backbone_weights(backbone, tmp_path / "swin.pth")
    for name, parameter in backbone.named_parameters():
        if name.startswith("norm"):
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("weight"))))
        else:
            assert torch.equal(parameter, content["model"][name]), name
    assert torch.equal(backbone.layers[0].blocks[0].attn.relative_position_index, index)
    # 3 blocks of 13 parameters, the embedding 4, a merging 3; left out: 5 extra ones and 3 position indices.
    assert "loaded 46 tensors" in caplog.text and "left out 8" in caplog.text
    assert "start new: norm0.weight, norm0.bias, norm1.weight, norm1.bias." in caplog.text


def test_a_swin_s_position_tables_are_resized_to_its_window(tmp_path, caplog):
    _, content = published_swin(window_size=12)
    torch.save(content, tmp_path / "swin.pth")
    backbone = SwinBackbone(**SWIN)
    with caplog.at_level("INFO", logger="weakseg"):
        load_backbone_weights(backbone, tmp_path / "swin.pth")
    table = "layers.1.blocks.0.attn.relative_position_bias_table"
    assert content["model"][table].shape == (529, 4)
    expected = resize_position_table(content["model"][table], 7)
    assert torch.equal(backbone.state_dict()[table], expected) and expected.shape == (169, 4)
    assert "resized 3 position tables to windows of 7" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layers.0.blocks.1.mlp.fc1.weight", None),
        ("layers.0.downsample.norm.bias", None),
        ("patch_embed.norm.weight", torch.zeros(17)),
        ("norm1.weight", torch.zeros(5)),
        ("layers.1.blocks.0.attn.relative_position_bias_table", torch.zeros(168, 4)),
        ("layers.1.blocks.0.attn.relative_position_bias_table", torch.zeros(529, 3)),
    ],
)
def test_any_other_difference_of_a_swin_is_an_error(tmp_path, name, value):
    _, content = published_swin()
    content["model"].pop(name, None)
    if value is not None:
        content["model"][name] = value
    torch.save(content, tmp_path / "swin.pth")
    with pytest.raises(ValueError, match=f"and 1 are missing or of another shape, the first is {name}"):
        load_backbone_weights(SwinBackbone(**SWIN), tmp_path / "swin.pth")


def test_norms_may_be_new_in_a_swin_alone(tmp_path):
    backbone = TimmBackbone("test_convnext")
    state = {key: value for key, value in backbone.network.state_dict().items() if "norm" not in key}
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match="norm"):
        load_backbone_weights(backbone, tmp_path / "part.safetensors")


def test_a_missing_file_says_where_its_authors_publish_it(tmp_path):
    for name in ("swin_large_patch4_window12_384_22k.pth", "resnet50-11ad3fa6.pth"):
        with pytest.raises(FileNotFoundError, match=f"{name}: expected .*{re.escape(hint(tmp_path / name))}$"):
            load_backbone_weights(SwinBackbone(**SWIN), tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"mine\.pth: expected .*[^ ]$"):
        load_backbone_weights(SwinBackbone(**SWIN), tmp_path / "mine.pth")
