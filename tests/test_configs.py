"""Every leaf config of every method builds at full size. Those of Point2Mask have the numbers of their rows; each of
its distinct architectures, shrunk, takes a step and predicts."""

import math

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from tiny import CONFIGS, classes_only, scenes, shrunk_config
from weakseg.data.convert.segments import add_points
from weakseg.engine.defaults import load_config
from weakseg.engine.trainer import Trainer
from weakseg.labels import decode_segmentation, read_label_file, write_label_file
from weakseg.methods.point2mask.targets import point_targets

LEAVES = sorted(
    path for path in CONFIGS.rglob("*.yaml") if not path.name.startswith("_") and "recipes" not in path.parts
)
POINT2MASK = [path for path in LEAVES if path.parent.name == "point2mask"]
CLASSES = {"voc": (20, 1), "coco": (80, 53), "densepose": (0, 15), "demo": (4, 2)}
WITH_BACKGROUND = ("voc", "densepose")

ROWS = ["voc_r50", "voc_r101", "voc_swinl", "coco_r50", "coco_r101", "coco_swinl"]
ROWS += ["voc_r50_from_coco", "voc_r101_from_coco", "voc_swinl_from_coco"]
ROWS += ["voc_r50_p10", "voc_r101_p10", "coco_r50_p10", "coco_r101_p10"]
"""The rows of Point2Mask's tables (card section 1), in order."""


def identity(path):
    return str(path.relative_to(CONFIGS))


def config_of(row: str) -> CfgNode:
    return load_config(CONFIGS / "point2mask" / f"{row}.yaml")


def flat(node: dict, prefix: str = "") -> dict:
    """Full key -> value."""
    values = {}
    for key, value in node.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return values


def classes_of(path, folder):
    """A label file with the classes of the data set that a config is for."""
    data = path.stem.split("_")[0]
    return classes_only(folder / "labels.json", *CLASSES[data], background=data in WITH_BACKGROUND)


def build_on_meta(cfg: CfgNode, labels) -> torch.nn.Module:
    cfg.DATASETS.TRAIN = (str(labels),)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


def test_every_row_has_a_config():
    assert set(ROWS) <= {path.stem for path in POINT2MASK}


@pytest.mark.parametrize("path", LEAVES, ids=identity)
def test_leaf_builds_at_full_size(path, tmp_path):
    cfg = load_config(path)
    cfg.MODEL.BACKBONE.WEIGHTS = ""
    model = build_on_meta(cfg, classes_of(path, tmp_path))
    grouped = [id(parameter) for group in model.parameter_groups() for parameter in group["params"]]
    trainable = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    assert sorted(grouped) == sorted(trainable)
    if path in POINT2MASK:
        assert model.head.network.semantic_scale.weight.shape[0] == sum(CLASSES[path.stem.split("_")[0]])


@pytest.mark.parametrize("row", ROWS)
def test_numbers_of_the_row(row):
    """Section 4 of the card."""
    cfg = config_of(row)
    is_voc, is_swin = row.startswith("voc"), "swinl" in row
    images, epochs, drops = (10582, 24, (15, 20)) if is_voc else (117266, 15, (8, 12))
    batch = 8 if is_voc or is_swin else 16
    steps = math.ceil(images / batch)
    solver, node = cfg.SOLVER, cfg.MODEL.POINT2MASK
    assert (solver.BASE_LR, solver.IMS_PER_BATCH) == (1e-4 if is_voc or is_swin else 2e-4, batch)
    assert (solver.MAX_ITER, tuple(solver.STEPS)) == (steps * epochs, tuple(steps * epoch for epoch in drops))
    assert (cfg.TEST.EVAL_PERIOD, solver.CHECKPOINT_PERIOD) == (steps, 2 * steps)
    assert (solver.WEIGHT_DECAY, solver.BACKBONE_MULTIPLIER, solver.GAMMA) == (1e-4, 0.1, 0.1)
    assert (node.OT.WARMUP_ITERS, node.LOSS_RAMP_ITERS) == (12000 if is_voc else 60000, 14659)
    quality = 0.3 if is_voc and is_swin else 0.25
    assert (node.TEST.QUALITY_THRESH_THING, node.TEST.QUALITY_THRESH_STUFF) == (quality, quality)
    sizes = (600,) if is_voc else tuple(range(480, 801, 32))
    assert (tuple(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MAX_SIZE_TRAIN) == (sizes, 1333)
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (sizes[-1], 1333)
    if is_swin:
        assert cfg.MODEL.BACKBONE.NAME == "build_swin_backbone"
        assert (cfg.MODEL.SWIN.EMBED_DIM, tuple(cfg.MODEL.SWIN.DEPTHS)) == (192, (2, 2, 18, 2))
        assert (tuple(cfg.MODEL.SWIN.NUM_HEADS), cfg.MODEL.SWIN.WINDOW_SIZE) == ((6, 12, 24, 48), 7)
        assert cfg.MODEL.SWIN.DROP_PATH_RATE == 0.3
    else:
        assert (cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT) == ("build_resnet_backbone", 2)
        assert (cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.NORM) == (101 if "r101" in row else 50, "FrozenBN")


@pytest.mark.parametrize("row", ROWS)
def test_data_and_initial_weights_of_the_row(row):
    cfg, (data, backbone, *variant) = config_of(row), row.split("_", 2)
    imagenet = {
        "r50": "resnet50-11ad3fa6.pth",
        "r101": "resnet101-b641f3a9.pth",
        "swinl": "swin_large_patch4_window12_384_22k.pth",
    }
    weights = (f"models/{imagenet[backbone]}", "")
    if variant == ["from_coco"]:
        weights = ("", f"models/point2mask_coco_{backbone}.pth")
    assert (cfg.MODEL.BACKBONE.WEIGHTS, cfg.MODEL.WEIGHTS) == weights
    train = {"voc": "weakseg_voc_2012_train_aug_panoptic", "coco": "weakseg_coco_2017_train_panoptic"}[data]
    train += "_p10" if variant == ["p10"] else ""
    test = {"voc": "weakseg_voc_2012_val_panoptic", "coco": "weakseg_coco_2017_val_panoptic"}[data]
    assert (list(cfg.DATASETS.TRAIN), list(cfg.DATASETS.TEST)) == ([train], [test])
    assert {train, test} <= set(DatasetCatalog)
    assert {MetadataCatalog.get(name).evaluator_type for name in (train, test)} == {"weakseg_panoptic"}


@pytest.mark.parametrize("row", [row for row in ROWS if row.count("_") > 1])
def test_points_and_initial_weights_change_nothing_else(row):
    plain, ours = flat(config_of("_".join(row.split("_")[:2]))), flat(config_of(row))
    different = {key for key in plain if plain[key] != ours[key]}
    assert different == ({"DATASETS.TRAIN"} if "p10" in row else {"MODEL.WEIGHTS", "MODEL.BACKBONE.WEIGHTS"})


@pytest.mark.parametrize("backbone", ["r50", "r101", "swinl"])
def test_weights_of_coco_fit_voc_but_for_the_classes(backbone, tmp_path):
    states = []
    for data in ("coco", "voc"):
        cfg = config_of(f"{data}_{backbone}")
        cfg.MODEL.BACKBONE.WEIGHTS = ""
        states.append(build_on_meta(cfg, classes_only(tmp_path / f"{data}.json", *CLASSES[data])).state_dict())
    coco, voc = states
    assert coco.keys() == voc.keys()
    reshaped = {name for name in coco if coco[name].shape != voc[name].shape}
    assert reshaped == {name for name in coco if name.startswith(CLASS_SHAPED)}
    assert all(coco[name].shape[1:] == voc[name].shape[1:] for name in reshaped)


CLASS_SHAPED = tuple(
    f"head.network.{part}."
    for part in (
        "location_decoder.class_branches",
        "stuff_decoder.queries",
        "semantic_decoder.queries",
        "semantic_scale",
    )
)


def architecture(path) -> str:
    """What of a config decides what a shrunk step does."""
    model = load_config(path).MODEL
    for node, key in ((model, "WEIGHTS"), (model.BACKBONE, "WEIGHTS")):
        node[key] = ""
    del model.POINT2MASK["OT"], model.POINT2MASK["TEST"]
    return model.dump()


@pytest.mark.parametrize("path", {architecture(path): path for path in reversed(POINT2MASK)}.values(), ids=identity)
def test_shrunk_architecture_takes_a_step_and_predicts(path, tmp_path):
    cfg = shrunk_config(path, scenes(tmp_path, count=2), tmp_path / "output", SOLVER__MAX_ITER=1)
    trainer = Trainer(cfg)
    before = [parameter.detach().clone() for parameter in trainer.module.parameters()]
    trainer.train()
    moved = [not torch.equal(a, b) for a, b in zip(before, trainer.module.parameters()) if b.requires_grad]
    assert sum(moved) > 0.8 * len(moved)
    results = trainer.test(cfg, trainer.module)
    assert set(results) == {"panoptic_seg", "sem_seg"}


def test_a_row_from_coco_starts_with_its_weights_new_classes_and_step_0(tmp_path):
    path = CONFIGS / "point2mask/voc_r50_from_coco.yaml"
    coco = shrunk_config(path, classes_only(tmp_path / "coco.json", 7, 5), tmp_path / "coco")
    source = Trainer(coco).module
    torch.nn.init.constant_(source.head.network.level_embedding, 0.3)
    source.head.iteration += 70000
    torch.save({"model": source.state_dict()}, tmp_path / "point2mask_coco_r50.pth")
    weights = str(tmp_path / "point2mask_coco_r50.pth")
    trainer = Trainer(shrunk_config(path, scenes(tmp_path, count=1), tmp_path / "voc", MODEL__WEIGHTS=weights))
    fresh = {name: value.clone() for name, value in trainer.module.state_dict().items()}
    trainer.resume_or_load(resume=False)
    assert trainer.start_iter == 0
    for name, value in trainer.module.state_dict().items():
        if name == "head.iteration":
            assert value.item() == 0
        else:
            expected = fresh if name.startswith(CLASS_SHAPED) else source.state_dict()
            assert torch.equal(value, expected[name]), name


def test_a_step_sees_ten_points_of_every_target(tmp_path, monkeypatch):
    labels = read_label_file(scenes(tmp_path, count=2, size=64))
    for image in labels.images:
        items = labels.annotations[image["id"]]
        masks = [decode_segmentation(item["segmentation"], image["height"], image["width"]) for item in items]
        add_points(items, masks, 10, np.random.default_rng(image["id"]))
    write_label_file(tmp_path / "train_p10.json", labels)
    seen = []

    def recorded(labels, *arguments, **keywords):
        seen.append((labels, point_targets(labels, *arguments, **keywords)))
        return seen[-1][1]

    monkeypatch.setattr("weakseg.methods.point2mask.head.point_targets", recorded)
    changes = {"SOLVER__MAX_ITER": 1, "INPUT__MIN_SIZE_TRAIN": (64,), "DATASETS__TEST": ()}
    path = CONFIGS / "point2mask/voc_r50_p10.yaml"
    Trainer(shrunk_config(path, tmp_path / "train_p10.json", tmp_path / "output", **changes)).train()
    ((batch, targets),) = seen
    assert len(batch) == 2
    for weak, classes, rows, point_map in zip(batch, targets.classes, targets.points, targets.point_map, strict=True):
        assert torch.bincount(weak.point_target).tolist() == [10] * len(weak.classes)
        assert torch.bincount(rows[:, 0]).tolist() == [10] * len(classes)
        assert len(rows.unique(dim=0)) == 10 * len(classes)
        # Each on a pixel of its own, stuff too.
        assert (point_map != 255).sum() == 10 * len(weak.classes)


def test_a_missing_backbone_file_is_named(tmp_path):
    cfg = load_config(CONFIGS / "point2mask/voc_r50.yaml")
    cfg.DATASETS.TRAIN = (str(classes_only(tmp_path / "labels.json", 20, 1)),)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.WEIGHTS = str(tmp_path / "resnet50.pth")
    with pytest.raises(FileNotFoundError, match="resnet50.pth: expected"):
        build_model(cfg)


@pytest.mark.parametrize("row", ["voc_r50", "coco_r101", "voc_swinl"])
def test_a_missing_published_file_says_where_it_is_published(row, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = config_of(row)
    file = cfg.MODEL.BACKBONE.WEIGHTS
    with pytest.raises(FileNotFoundError, match=f"{file}: expected .*https://.* put it at {file}"):
        build_on_meta(cfg, classes_only(tmp_path / "labels.json", 20, 1))
