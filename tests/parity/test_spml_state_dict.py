"""Every tensor of the published checkpoints, and of the ImageNet file they start from, is one of ours."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from parity.reference import Reference, reference_files
from parity.spml_model import KERNEL, published_values
from tiny import CONFIGS, classes_only
from weakseg.backbones.deep_stem_resnet import DeepStemResNet, from_imagenet, imagenet_name
from weakseg.engine.defaults import load_config
from weakseg.methods.spml.checkpoint import (
    config_name,
    join_parts,
    our_name,
    published_name,
    split_parts,
    to_published,
)
from weakseg.weights import without_extra_state
from weakseg.zoo.convert import METHODS, PublishedCheckpoint, from_published


def parts_of(path):
    with Reference(path) as ref:
        return {name: ref[name] for name in ref.keys()}


def config_of(parts, stage, folder):
    """The config of a recorded file's data set, with its depth, head and sizes."""
    embedding, prediction = parts["embedding_model"], parts["prediction_model"]
    data = "densepose" if KERNEL in embedding else "voc"
    cfg = load_config(CONFIGS / f"spml/{data}_point{stage}.yaml")
    num_classes = prediction["semantic_classifier.4.weight"][0]
    cfg.DATASETS.TRAIN = (str(classes_only(folder / "labels.json", 0, num_classes)),)
    cfg.MODEL.RESNETS.DEPTH = 101 if "resnet_backbone.res4.22.conv1.weight" in embedding else 50
    cfg.MODEL.SPML.HEAD = "deeplab" if "aspp.aspp_1.0.weight" in embedding else "pspnet"
    cfg.MODEL.SPML.EMBEDDING_DIM = prediction["semantic_classifier.0.weight"][1]
    return cfg


def planned_by(cfg):
    """The model of a config without data."""
    cfg = cfg.clone()
    cfg.MODEL.DEVICE, cfg.MODEL.BACKBONE.WEIGHTS = "meta", ""
    with torch.device("meta"):
        return build_model(cfg)


@reference_files("spml", "state_dict")
def test_converted_by_the_command_for_either_stage(path, tmp_path):
    parts = parts_of(path)
    published = PublishedCheckpoint(Path("published.pth"), published_values(join_parts(parts)), {})
    method = METHODS["spml"]
    for stage in ("", "_classifier"):
        cfg = config_of(parts, stage, tmp_path)
        ours = from_published(published, "spml", cfg)
        assert len(ours["model"]) == len(published.state) and ours["published"]["state_dict"] == {}
        model = planned_by(cfg)
        # Not strict: a memory bank is in no published file. `assign` takes the tensors as they are: nothing of their
        # size is allocated twice.
        missing, unexpected = model.load_state_dict(ours["model"], strict=False, assign=True)
        assert without_extra_state(dict.fromkeys(missing)) == {} and not unexpected

        back = method.split(method.to_published(without_extra_state(model.state_dict())))
        assert {part: {key: list(v.shape) for key, v in tensors.items()} for part, tensors in back.items()} == parts
        for part, tensors in back.items():
            for key, value in tensors.items():
                original = published.state[f"{part}.{key}"]
                assert value.dtype == original.dtype and torch.equal(value, original), key


@reference_files("spml", "state_dict")
def test_a_published_row_has_its_config(path, tmp_path):
    parts = parts_of(path)
    name = config_name({key: torch.empty(shape, device="meta") for key, shape in join_parts(parts).items()})
    if not name:
        pytest.skip("not the network of a published row")
    cfg = load_config(CONFIGS / f"spml/{name}.yaml")
    cfg.DATASETS.TRAIN = config_of(parts, "", tmp_path).DATASETS.TRAIN
    state = split_parts(to_published(without_extra_state(planned_by(cfg).state_dict())))
    assert {part: {key: list(v.shape) for key, v in tensors.items()} for part, tensors in state.items()} == parts


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
