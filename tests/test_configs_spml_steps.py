"""What the configs of SPML train, how fast (card 4); each distinct one, shrunk, takes a step and predicts."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from methods.spml.rows import CAM, CLASSIFIER, LEAVES, RELATIONS, WEIGHTS, column_of, config_of

from tiny import CONFIGS, classes_only, scenes, shrunk_config
from weakseg.data.catalog import register_label_file
from weakseg.data.convert.segments import tags_of
from weakseg.engine.caffe_sgd import CaffeMomentumSGD, build_lr_scheduler
from weakseg.engine.defaults import load_config
from weakseg.engine.optimizer import build_optimizer
from weakseg.engine.trainer import Trainer
from weakseg.labels import ClassOrder, decode_segmentation, read_label_file, write_label_file
from weakseg.labels.scribbles import sample_scribbles
from weakseg.safe_io import write_png


def build_on_meta(row: str, folder) -> torch.nn.Module:
    cfg = config_of(row)
    cfg.MODEL.BACKBONE.WEIGHTS = ""
    counts = (20, 1) if row.startswith("voc") else (0, 15)
    cfg.DATASETS.TRAIN = (str(classes_only(folder / "labels.json", *counts, background=True)),)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


def rates_of(model: torch.nn.Module) -> dict[str, tuple[float, float]]:
    """Factors of learning rate and weight decay by name of a parameter."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        name_of[id(parameter)]: (group["lr_mult"], group["decay_mult"])
        for group in model.parameter_groups()
        for parameter in group["params"]
    }


@pytest.mark.parametrize("row", ["voc_tag", "densepose_point"])
def test_parameter_groups_of_the_embedding_stage(row, tmp_path):
    """Section 4.1."""
    model = build_on_meta(row, tmp_path)
    expected = {}
    for name, _ in model.named_parameters():
        if not name.startswith(("backbone.stem.", "backbone.res2.", "head.network.colors.")):
            factor = 1.0 if name.startswith("backbone.") else 10.0
            expected[name] = (2 * factor, 0.0) if name.endswith("bias") else (factor, 1.0)
    assert rates_of(model) == expected
    assert {name.split(".")[1] for name in expected} == {"res3", "res4", "res5", "network"}
    assert model.head.network.classifier.predict.out_channels == (21 if row == "voc_tag" else 15)


@pytest.mark.parametrize("row", [*CLASSIFIER, "voc_mobilenet_small_classifier"])
def test_only_the_classifier_learns_in_the_classifier_stage(row, tmp_path):
    model = build_on_meta(row, tmp_path)
    classifier = {f"head.network.classifier.{name}" for name, _ in model.head.network.classifier.named_parameters()}
    expected = {name: (20.0, 0.0) if name.endswith("bias") else (10.0, 1.0) for name in classifier}
    assert rates_of(model) == expected
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == classifier
    model.train()
    network = model.head.network
    assert not any(module.training for part in (model.backbone, network.embedding_head) for module in part.modules())
    assert all(module.training for module in network.classifier.modules())


@pytest.mark.parametrize("row", ["voc_tag", "densepose_point", "voc_tag_classifier"])
def test_learning_rates(row, tmp_path):
    """Sections 4.1 and 4.2: the optimiser and the schedule that the config names."""
    cfg = config_of(row)
    optimizer = build_optimizer(cfg, build_on_meta(row, tmp_path))
    assert isinstance(optimizer, CaffeMomentumSGD)
    assert {(group["momentum"], group["weight_decay"]) for group in optimizer.param_groups} == {(0.9, 5e-4), (0.9, 0)}
    scheduler = build_lr_scheduler(cfg, optimizer)
    last = optimizer.param_groups[-1]
    iterations = {"voc_tag": 30000, "densepose_point": 45000, "voc_tag_classifier": 4000}[row]
    for t in range(150):
        ramp = 0.1 * (1 - t / 100) + t / 100 if t < 100 else math.inf
        # The last group holds the biases of the classifier.
        expected = 20 * 3e-3 * min(ramp, (1 - t / iterations) ** 0.9)
        assert last["lr"] == pytest.approx(expected, rel=1e-9), t
        optimizer.step()
        scheduler.step()


@pytest.fixture(scope="module")
def small_data(tmp_path_factory):
    """Two rendered scenes with tags and scribbles; their label maps and regions lie beside. Sand is the background, and
    they share no other class, so that relation O has something to part."""
    folder = tmp_path_factory.mktemp("scenes")
    labels = read_label_file(scenes(folder, count=2))
    labels.categories[-1]["name"] = "background"
    order = ClassOrder.of([category["name"] for category in labels.categories])
    class_of = labels.class_index
    generator = np.random.default_rng(0)
    for index, image in enumerate(labels.images):
        items, size = labels.annotations[image["id"]], (image["height"], image["width"])
        for item in items:
            if item["category_id"] != labels.categories[-1]["id"]:
                item["category_id"] = 1 + 2 * index + item["category_id"] % 2
        image["tags"] = tags_of(items)
        house, regions = np.full(size, 255, dtype=np.uint8), np.zeros(size, dtype=np.uint8)
        for number, item in enumerate(items):
            mask = decode_segmentation(item["segmentation"], *size)
            item["scribbles"] = [line.tolist() for line in sample_scribbles([mask], generator)[0]]
            house[mask] = class_of[item["category_id"]]
            regions[mask] = number
        house[:8] = 255
        name = Path(image["file_name"]).name
        write_png(folder / "semantic" / name, order.to_png(house))
        write_png(folder / "regions" / name, regions)
    path = folder / "labels.json"
    write_label_file(path, labels)
    register_label_file(str(path), path, folder, "weakseg_sem_seg")
    yield path
    DatasetCatalog.remove(str(path))
    MetadataCatalog.remove(str(path))


def architecture(row: str) -> tuple:
    """What of a config decides what a shrunk step does."""
    cfg = config_of(row)
    has_weight = {name: bool(node.WEIGHT) for name, node in cfg.MODEL.SPML.RELATIONS.items()}
    learns_from = sorted(cfg.INPUT.SUPERVISION) if "semantic" not in cfg.INPUT.EVIDENCE else []
    for node, keys in (
        (cfg.MODEL, ["WEIGHTS", "POINT2MASK"]),
        (cfg.MODEL.BACKBONE, ["WEIGHTS"]),
        (cfg.MODEL.SPML, ["RELATIONS", "PIXEL_LOSS_WEIGHT", "TEST", "PSEUDO", "CAM"]),
    ):
        for key in keys:
            del node[key]
    return cfg.MODEL.dump(), tuple(has_weight.items()), tuple(learns_from), tuple(cfg.INPUT.EVIDENCE)


def losses_of(row: str) -> set[str]:
    """Names of the losses, from the card alone."""
    if row in CAM:
        return {"loss_tags"}
    if "classifier" in row or row.endswith(("cross_entropy", "end_to_end")):
        return {"loss_pixel"}
    used = {f"loss_{name}" for name, weight in zip(RELATIONS, WEIGHTS[column_of(row)]) if weight}
    return {"loss_pixel", *used}


@pytest.mark.parametrize("row", {architecture(row): row for row in reversed(LEAVES)}.values())
def test_shrunk_architecture_takes_a_step_and_predicts(row, small_data, tmp_path):
    path = CONFIGS / f"spml/{row}.yaml"
    frozen_stages = load_config(path).MODEL.BACKBONE.FREEZE_AT
    cfg = shrunk_config(
        path,
        small_data,
        tmp_path,
        SOLVER__MAX_ITER=1,
        MODEL__BACKBONE__FREEZE_AT=frozen_stages,
        INPUT__MIN_SIZE_TRAIN=(64, 80),
        INPUT__REGION_ROOT=str(small_data.parent / "regions"),
        INPUT__SEMANTIC_ROOT=str(small_data.parent / "semantic"),
        DATASETS__TEST=(),
    )
    trainer = Trainer(cfg)
    before = {name: value.clone() for name, value in tensors(trainer.module).items()}
    trainer.train()

    losses = {name: value for name, (value, _) in trainer.storage.latest().items() if name.startswith("loss_")}
    assert set(losses) == losses_of(row)
    assert all(value > 0 for value in losses.values())
    after = tensors(trainer.module)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    trainable = {name for name, parameter in trainer.module.named_parameters() if parameter.requires_grad}
    assert len(moved & trainable) > 0.8 * len(trainable)
    # Statistics move, also those of stages without gradient (fault j), but not those of norms in evaluation mode.
    statistics = {name for name in before if name.endswith(("running_mean", "running_var"))}
    assert moved - trainable == {name for name in statistics if name.startswith(parts_with_moving_statistics(row))}

    cfg.DATASETS.TEST = (str(small_data),)
    results = Trainer.test(cfg, trainer.module)
    assert set(results) == {"sem_seg"} and 0 <= results["sem_seg"]["mIoU"] <= 100


def tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and statistics by name; not the memory bank, which grows, and not how often a norm has run."""
    found = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: value for name, value in found.items() if not name.endswith("num_batches_tracked")}


def parts_with_moving_statistics(row: str) -> tuple[str, ...]:
    if "classifier" in row:
        return ("head.network.classifier.",)
    return ("head.",) if "mobilenet" in row else ("backbone.", "head.")
