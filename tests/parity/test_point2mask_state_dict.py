"""Every tensor of the published checkpoints is one of ours: converted, loaded strictly, converted back bit-equal."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_backbone, build_model

from parity.point2mask_model import data_set_of, published_config, resnet_depth
from parity.reference import Reference, fill_rule, reference_files
from tiny import CONFIGS, classes_only
from weakseg.engine.defaults import load_config
from weakseg.methods.point2mask.checkpoint import config_name, to_published
from weakseg.zoo.convert import PublishedCheckpoint, from_published

COUNTER = 12345


def planned_model(cfg):
    """The model of a config without data, which takes no memory."""
    cfg = cfg.clone()
    cfg.MODEL.DEVICE, cfg.MODEL.BACKBONE.WEIGHTS = "meta", ""
    with torch.device("meta"):
        return build_model(cfg)


def class_counts(shapes):
    return shapes["bbox_head.cls_branches.0.weight"][0], shapes["bbox_head.stuff_query.weight"][0]


def position_index(window):
    """Row of the bias table for each pair of tokens of a window, both in reading order (card section 2.1)."""
    y, x = torch.arange(window * window) // window, torch.arange(window * window) % window
    dy, dx = y[:, None] - y, x[:, None] - x
    return (dy + window - 1) * (2 * window - 1) + dx + window - 1


def filled(shapes, window):
    rule = fill_rule()
    state = {}
    for key, shape in shapes.items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.zeros(shape, dtype=torch.int64)
        elif key.endswith("relative_position_index"):
            state[key] = position_index(window)
        else:
            state[key] = torch.from_numpy(rule.fill(key, tuple(shape)))
    return state | {"bbox_head._iter": torch.tensor([float(COUNTER)])}


def load(path):
    with Reference(path) as ref:
        return {key: ref[key] for key in ref.keys()}


@reference_files("point2mask", "state_dict")
def test_converted_loaded_and_converted_back(path, tmp_path):
    shapes = load(path)
    cfg = published_config(resnet_depth(path, shapes), shapes)
    cfg.DATASETS.TRAIN = (str(classes_only(tmp_path / "labels.json", *class_counts(shapes))),)
    state = filled(shapes, cfg.MODEL.SWIN.WINDOW_SIZE)

    ours = from_published(PublishedCheckpoint(Path("published.pth"), state, {}), "point2mask", cfg)["model"]
    assert ours["head.iteration"].dtype == torch.int64 and ours["head.iteration"].tolist() == [COUNTER]
    model = planned_model(cfg)
    # `assign` takes the tensors as they are: nothing of their size is allocated twice.
    model.load_state_dict(ours, strict=True, assign=True)

    back = to_published(model.state_dict())
    assert set(back) == set(shapes)
    for key, value in state.items():
        assert back[key].dtype == value.dtype and torch.equal(back[key], value), key


@reference_files("point2mask", "state_dict")
def test_the_config_of_the_row_has_these_tensors(path, tmp_path):
    shapes = load(path)
    name = path.stem.removeprefix("state_dict_")
    config_file = CONFIGS / f"point2mask/{name}.yaml"
    if not config_file.is_file():
        pytest.skip(f"no config for {name}")
    if class_counts(shapes) == data_set_of(name).classes:
        found = config_name({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
        assert found and name.startswith(found)
    cfg = load_config(config_file)
    cfg.DATASETS.TRAIN = (str(classes_only(tmp_path / "labels.json", *class_counts(shapes))),)
    state = to_published(planned_model(cfg).state_dict())
    assert {key: list(value.shape) for key, value in state.items()} == shapes


def test_the_position_index_is_the_one_that_the_model_computes():
    cfg = published_config(None)
    cfg.MODEL.SWIN.merge_from_list(["EMBED_DIM", 4, "DEPTHS", (1, 1), "NUM_HEADS", (1, 2), "OUT_FEATURES", ("res2",)])
    backbone = build_backbone(cfg)
    index = backbone.state_dict()["layers.0.blocks.0.attn.relative_position_index"]
    assert torch.equal(index, position_index(cfg.MODEL.SWIN.WINDOW_SIZE))
