"""Every tensor of the published checkpoints, and of the ImageNet file they start from, is one of ours."""

import torch

from parity.reference import Reference, reference_files
from parity.spml_model import model_of_shapes, published_values
from weakseg.backbones.deep_stem_resnet import DeepStemResNet, from_imagenet, imagenet_name
from weakseg.methods.spml.checkpoint import join_parts, our_name, published_name, split_parts, to_ours, to_published


def planned_model(shapes):
    """Without data, so without memory."""
    with torch.device("meta"):
        return model_of_shapes(shapes)


@reference_files("spml", "state_dict")
def test_converted_loaded_and_converted_back(path):
    with Reference(path) as ref:
        parts = {name: ref[name] for name in ref.keys()}
    shapes = join_parts(parts)
    assert len(shapes) == sum(map(len, parts.values()))
    model = planned_model(shapes)
    state = published_values(shapes)

    ours = to_ours(state)
    assert len(ours) == len(state)
    # `assign` takes the tensors as they are: nothing of their size is allocated twice.
    model.load_state_dict(ours, strict=True, assign=True)

    back = to_published(model.state_dict())
    assert set(back) == set(shapes)
    for key, value in state.items():
        assert list(value.shape) == shapes[key]
        assert back[key].dtype == value.dtype and torch.equal(back[key], value), key
    assert {name: {key: list(v.shape) for key, v in part.items()} for name, part in split_parts(back).items()} == parts


@reference_files("spml", "imagenet_key_mapping")
def test_the_imagenet_file_starts_the_published_parameters(path):
    with Reference(path) as ref:
        mapping = {name: ref[name] for name in ref.keys()}
    ours = from_imagenet({name: name for name in mapping})
    assert sorted(ours.values()) == sorted(name for name, published in mapping.items() if published is not None)
    for mine, theirs in ours.items():
        published = "embedding_model." + mapping[theirs]
        assert published_name(f"backbone.{mine}") == published
        assert our_name(published) == f"backbone.{mine}"
        assert imagenet_name(mine) == theirs


@reference_files("spml", "imagenet_key_mapping")
def test_the_imagenet_file_fills_the_whole_backbone(path):
    with Reference(path) as ref:
        names = [name for name in ref.keys() if ref[name] is not None]
    depth = {6: 50, 23: 101}[len({name.split(".")[1] for name in names if name.startswith("layer3.")})]
    with torch.device("meta"):
        backbone = DeepStemResNet(depth)
    assert set(from_imagenet(dict.fromkeys(names))) == set(backbone.state_dict())
