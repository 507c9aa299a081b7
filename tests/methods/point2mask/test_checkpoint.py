"""Published parameter names and ours, by hand; the whole list is compared in tests/parity."""

import pytest
import torch

from weakseg.methods.point2mask.checkpoint import config_name, our_name, published_name, to_ours, to_published
from weakseg.methods.point2mask.network import Point2MaskNetwork

PAIRS = [
    ("backbone.bn1.running_var", "backbone.stem.conv1.norm.running_var"),
    ("backbone.layer4.2.downsample.0.weight", "backbone.res5.2.shortcut.weight"),
    ("backbone.patch_embed.norm.weight", "backbone.patch_embed.norm.weight"),
    ("backbone.layers.2.blocks.17.attn.qkv.bias", "backbone.layers.2.blocks.17.attn.qkv.bias"),
    ("backbone.layers.0.downsample.norm.bias", "backbone.layers.0.downsample.norm.bias"),
    ("backbone.norm3.weight", "backbone.norm3.weight"),
    ("neck.convs.1.gn.bias", "head.network.neck.convs.1.norm.bias"),
    ("neck.extra_convs.0.conv.weight", "head.network.neck.convs.3.conv.weight"),
    ("bbox_head.transformer.level_embeds", "head.network.level_embedding"),
    (
        "bbox_head.transformer.encoder.layers.5.ffns.0.layers.0.0.weight",
        "head.network.encoder.layers.5.ffn.expand.weight",
    ),
    ("bbox_head.transformer.encoder.layers.5.norms.1.bias", "head.network.encoder.layers.5.ffn_norm.bias"),
    (
        "bbox_head.transformer.decoder.layers.2.attentions.0.attn.out_proj.bias",
        "head.network.location_decoder.layers.2.self_attention.out_proj.bias",
    ),
    (
        "bbox_head.transformer.decoder.layers.2.attentions.1.value_proj.bias",
        "head.network.location_decoder.layers.2.cross_attention.value_proj.bias",
    ),
    ("bbox_head.transformer.decoder.layers.2.norms.1.bias", "head.network.location_decoder.layers.2.cross_norm.bias"),
    ("bbox_head.reg_branches.0.4.bias", "head.network.location_decoder.box_branches.0.4.bias"),
    (
        "bbox_head.things_mask_head.model.layers.3.mask_attn.mask_projs.2.0.weight",
        "head.network.thing_decoder.layers.3.mask_attention.level_convs.2.weight",
    ),
    (
        "bbox_head.stuff_mask_head.model.layers.1.norm2.weight",
        "head.network.stuff_decoder.decoder.layers.1.self_norm.weight",
    ),
    (
        "bbox_head.semantic_mask_head.model.layers.4.mlp.layers.3.bias",
        "head.network.semantic_decoder.decoder.layers.4.mlp.2.bias",
    ),
    ("bbox_head.cls_semantic_branches.3.weight", "head.network.semantic_decoder.existence_branches.3.weight"),
    ("bbox_head.boundary_proj.layer.2.weight", "head.network.boundary_head.2.weight"),
]


@pytest.mark.parametrize("published, ours", PAIRS)
def test_names(published, ours):
    assert our_name(published) == ours
    assert published_name(ours) == published


def test_every_parameter_of_the_network_has_its_own_published_name():
    with torch.device("meta"):
        network = Point2MaskNetwork([4, 4, 4], num_things=2, num_stuff=1, hidden_dim=16, ffn_dim=8, num_queries=2)
    names = [f"head.network.{name}" for name in network.state_dict()]
    published = [published_name(name) for name in names]
    assert len(set(published)) == len(names)
    assert [our_name(name) for name in published] == names


def test_counters_change_their_type_and_batch_counters_are_dropped_and_put_back():
    published = {
        "backbone.bn1.running_var": torch.rand(4),
        "backbone.bn1.num_batches_tracked": torch.tensor(7),
        "bbox_head._iter": torch.tensor([12000.0]),
    }
    ours = to_ours({f"module.{name}": value for name, value in published.items()})
    assert list(ours) == ["backbone.stem.conv1.norm.running_var", "head.iteration"]
    assert ours["head.iteration"].dtype == torch.int64 and ours["head.iteration"].tolist() == [12000]
    back = to_published(ours)
    assert set(back) == set(published)
    assert back["bbox_head._iter"].dtype == torch.float32 and back["bbox_head._iter"].tolist() == [12000.0]
    assert back["backbone.bn1.num_batches_tracked"].item() == 0
    assert torch.equal(back["backbone.bn1.running_var"], published["backbone.bn1.running_var"])


def test_integer_tables_of_swin_stay_as_they_are():
    index = torch.arange(16).reshape(4, 4)
    name = "backbone.layers.1.blocks.0.attn.relative_position_index"
    ours = to_ours({name: index})
    assert ours[name] is index and to_published(ours) == {name: index}


@pytest.mark.parametrize("name", ["roi_heads.box.weight", "backbone.conv9.weight", "backbone.res2.0.conv1.weight"])
def test_a_published_name_of_another_network_is_refused(name):
    with pytest.raises(ValueError, match=f"published Point2Mask network, found '{name}'"):
        to_ours({name: torch.zeros(1)})


@pytest.mark.parametrize(
    "name", ["head.teacher.weight", "backbone.network.conv_stem.weight", "backbone.layer1.0.conv1"]
)
def test_a_name_without_a_published_one_is_refused(name):
    with pytest.raises(ValueError, match=f"found '{name}'"):
        to_published({name: torch.zeros(1)})


@pytest.mark.parametrize(
    ("classes", "backbone", "config"),
    [
        (20, ["layer3.5.conv1"], "voc_r50"),
        (80, ["layer3.5.conv1", "layer3.22.conv1"], "coco_r101"),
        (20, ["layers.2.blocks.17.norm1"], "voc_swinl"),
        (21, ["layer3.5.conv1"], ""),
        (80, ["layers.2.blocks.5.norm1"], ""),
    ],
)
def test_the_config_follows_from_classes_and_backbone(classes, backbone, config):
    state = {f"backbone.{name}.weight": torch.zeros(1) for name in backbone}
    assert config_name(state) == ""
    assert config_name(state | {"bbox_head.cls_branches.0.weight": torch.zeros(classes, 2)}) == config
