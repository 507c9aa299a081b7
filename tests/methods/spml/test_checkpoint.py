"""Names of the published checkpoints; all of them are in tests/parity/test_spml_state_dict.py."""

import pytest
import torch

from weakseg.methods.spml.checkpoint import (
    config_name,
    join_parts,
    our_name,
    published_name,
    split_parts,
    to_ours,
    to_published,
)


@pytest.mark.parametrize(
    "published, ours",
    [
        ("embedding_model.resnet_backbone.conv1.conv1.3.weight", "backbone.stem.conv2.weight"),
        ("embedding_model.resnet_backbone.conv1.bn1.bias", "backbone.stem.conv3.norm.bias"),
        ("embedding_model.resnet_backbone.res4.22.bn2.running_var", "backbone.res4.22.conv2.norm.running_var"),
        ("embedding_model.resnet_backbone.res2.0.downsample.0.weight", "backbone.res2.0.shortcut.weight"),
        ("embedding_model.aspp.aspp_4.0.bias", "head.network.embedding_head.branches.3.bias"),
        ("embedding_model.pspp.0.pspp_2.1.weight", "head.network.embedding_head.pooling.levels.1.0.weight"),
        ("embedding_model.pspp.0.pspp_1.2.bias", "head.network.embedding_head.pooling.levels.0.1.bias"),
        ("embedding_model.pspp.0.conv.1.running_mean", "head.network.embedding_head.pooling.mix.1.running_mean"),
        ("embedding_model.pspp.1.bias", "head.network.embedding_head.project.bias"),
        ("embedding_model.lfn.smooth_kernel.weight", "head.network.colors.smooth_kernel.weight"),
        (
            "prediction_model.semantic_classifier.1.running_mean",
            "head.network.classifier.norm.running_mean",
        ),
        ("prediction_model.semantic_classifier.4.weight", "head.network.classifier.predict.weight"),
    ],
)
def test_names_in_both_directions(published, ours):
    assert our_name(published) == ours
    assert published_name(ours) == published
    value = torch.ones(2)
    assert to_ours({published: value})[ours] is value
    assert to_published({ours: value})[published] is value


@pytest.mark.parametrize(
    "name",
    ["embedding_model.resnet_backbone.fc.weight", "embedding_model.head.weight", "semantic_classifier.0.weight"],
)
def test_unknown_published_names_are_refused(name):
    with pytest.raises(ValueError, match=f"expected tensors of the SPML network, found '{name}'"):
        our_name(name)


@pytest.mark.parametrize("name", ["backbone.linear.weight", "head.network.decoder.weight", "pixel_mean"])
def test_our_names_without_a_published_one_are_refused(name):
    with pytest.raises(ValueError, match=f"expected tensors of the SPML network, found '{name}'"):
        published_name(name)


def test_the_two_parts_of_a_file():
    content = {
        "embedding_model": {"module.aspp.aspp_1.0.bias": 1, "lfn.smooth_kernel.weight": 2},
        "prediction_model": {},
        "epoch": 3,
    }
    joined = join_parts(content)
    assert joined == {"embedding_model.aspp.aspp_1.0.bias": 1, "embedding_model.lfn.smooth_kernel.weight": 2}
    parts = split_parts(joined | {"prediction_model.semantic_classifier.4.bias": 4})
    assert parts == {
        "embedding_model": {"aspp.aspp_1.0.bias": 1, "lfn.smooth_kernel.weight": 2},
        "prediction_model": {"semantic_classifier.4.bias": 4},
    }
    assert join_parts({}) == {}


def published_row(tensor, num_classes, channels, block=22):
    state = {
        "embedding_model." + tensor: torch.zeros(1),
        f"embedding_model.resnet_backbone.res4.{block}.conv1.weight": torch.zeros(1),
        "prediction_model.semantic_classifier.4.weight": torch.zeros(num_classes, channels, 1, 1),
    }
    return config_name(state)


def test_the_config_of_a_published_row():
    assert published_row("aspp.aspp_1.0.weight", 21, 128) == "voc_point_classifier"
    assert published_row("lfn.smooth_kernel.weight", 15, 64) == "densepose_point_classifier"


@pytest.mark.parametrize(
    "row",
    [
        ("aspp.aspp_1.0.weight", 15, 64),
        ("aspp.aspp_1.0.weight", 21, 64),
        ("aspp.aspp_1.0.weight", 20, 128),
        ("aspp.aspp_1.0.weight", 21, 128, 5),
        ("lfn.smooth_kernel.weight", 21, 128),
        ("pspp.1.bias", 21, 128),
    ],
)
def test_other_networks_and_classes_have_no_config(row):
    assert published_row(*row) == ""


def test_no_tensors_have_no_config():
    assert config_name({}) == ""
    assert config_name({"embedding_model.resnet_backbone.res4.22.conv1.weight": torch.zeros(1)}) == ""
