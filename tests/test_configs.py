"""Every leaf config builds at full size; every distinct architecture, shrunk, takes a step and predicts."""

import pytest
import torch
from detectron2.modeling import build_model

from tiny import CONFIGS, classes_only, scenes, shrunk_config
from weakseg.engine.defaults import load_config
from weakseg.engine.trainer import Trainer

LEAVES = sorted(
    path for path in CONFIGS.rglob("*.yaml") if not path.name.startswith("_") and "recipes" not in path.parts
)
CLASSES = {"voc": (20, 1), "coco": (80, 53), "demo": (4, 2)}


def identity(path):
    return str(path.relative_to(CONFIGS))


def test_there_are_configs():
    assert len(LEAVES) >= 7


@pytest.mark.parametrize("path", LEAVES, ids=identity)
def test_leaf_builds_at_full_size(path, tmp_path):
    num_things, num_stuff = CLASSES[path.stem.split("_")[0]]
    cfg = load_config(path)
    cfg.DATASETS.TRAIN = (str(classes_only(tmp_path / "labels.json", num_things, num_stuff)),)
    cfg.MODEL.DEVICE = "meta"
    cfg.MODEL.BACKBONE.WEIGHTS = ""
    with torch.device("meta"):
        model = build_model(cfg)
    groups = model.parameter_groups()
    assert sum(len(group["params"]) for group in groups) == sum(p.requires_grad for p in model.parameters())
    assert model.head.network.semantic_scale.weight.shape[0] == num_things + num_stuff


@pytest.mark.parametrize("path", LEAVES, ids=identity)
def test_shrunk_architecture_takes_a_step_and_predicts(path, tmp_path):
    cfg = shrunk_config(path, scenes(tmp_path, count=2), tmp_path / "output", SOLVER__MAX_ITER=1)
    trainer = Trainer(cfg)
    before = [parameter.detach().clone() for parameter in trainer.module.parameters()]
    trainer.train()
    moved = [not torch.equal(a, b) for a, b in zip(before, trainer.module.parameters()) if b.requires_grad]
    assert sum(moved) > 0.8 * len(moved)
    results = trainer.test(cfg, trainer.module)
    assert set(results) == {"panoptic_seg", "sem_seg"}


def test_a_missing_backbone_file_is_named(tmp_path):
    cfg = load_config(CONFIGS / "point2mask/voc_r50.yaml")
    cfg.DATASETS.TRAIN = (str(classes_only(tmp_path / "labels.json", 20, 1)),)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.WEIGHTS = str(tmp_path / "resnet50.pth")
    with pytest.raises(FileNotFoundError, match="resnet50.pth: expected"):
        build_model(cfg)
