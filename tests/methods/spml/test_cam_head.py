"""The classifier of tags: its loss on padded batches, its prediction, its optimiser groups, and runs of it."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from methods.spml.cam_stubs import head_of, labels_of, samples
from torch import nn

from tiny import CONFIGS, classes_only, scenes, shrunk_config
from weakseg.data import WeakMapper, build_train_loader
from weakseg.data.catalog import register_label_file
from weakseg.engine.defaults import load_config
from weakseg.engine.trainer import Trainer
from weakseg.inference.views import plain_view
from weakseg.labels import ClassOrder, LabelFile, read_label_file, write_label_file
from weakseg.methods.spml.cam_head import CAMHead

CAM_RUN = {
    "MODEL__WEAK_HEAD__NAME": "CAMHead",
    "MODEL__SPML__IN_FEATURE": "res3",
    "MODEL__SPML__CAM__SCALES": (0.5, 1.0),
    "INPUT__AUGMENTATION": "resize_flip",
    "INPUT__MIN_SIZE_TRAIN": (0,),
    "INPUT__MIN_SIZE_TEST": 0,
}


def padded_batch(sizes, padded, cells, seed=0):
    """Features of 3 channels, and the empty images they are of."""
    features = torch.from_numpy(np.random.default_rng(seed).normal(size=(len(sizes), 3, *cells))).float()
    return {"map": features}, ImageList(torch.zeros(len(sizes), 3, *padded), sizes)


SIZES = [(8, 9), (5, 7), (1, 2)]
KNOWN = [labels_of(SIZES[0], tags=[3, 0, 2]), labels_of(SIZES[1], boxes=[(0, 0, 2, 2, 1), (0, 0, 1, 1, 1)])]
SHOWN = [[1.0, 0, 1], [0, 1.0, 0]]


def loop_losses(head, features):
    """Loss of each image of `SIZES` (8 x 9 pixels, cells of 4 x 3) with known tags."""
    losses = []
    for b, shown in enumerate(SHOWN):
        height, width = SIZES[b]
        logits = torch.zeros(3)
        for row in range(height):
            for column in range(width):
                logits += head.classifier.weight[:, :, 0, 0] @ features["map"][b, :, row // 4, column // 3]
        losses.append(F.multilabel_soft_margin_loss(logits[None] / (height * width), torch.tensor([shown])))
    return losses


def test_the_loss_is_that_of_the_images_without_padding():
    torch.manual_seed(1)
    head = head_of(weight=torch.randn(3, 3))
    features, images = padded_batch(SIZES, (8, 9), (2, 3))
    losses = loop_losses(head, features)
    unknown = labels_of(SIZES[2])
    loss = head.losses(features, images, samples(*KNOWN, unknown))
    assert loss.keys() == {"loss_tags"} and losses[0] != losses[1]
    torch.testing.assert_close(loss["loss_tags"], (losses[0] + losses[1]) / 2)
    # What lies in the padding, or in an image whose tags are unknown, does not count.
    features["map"][1, :, :, 3:], features["map"][2] = 100, -100
    torch.testing.assert_close(head.losses(features, images, samples(*KNOWN, unknown))["loss_tags"], loss["loss_tags"])


def test_a_data_set_of_the_background_alone_is_refused():
    with pytest.raises(ValueError, match="CAMHead: expected at least one class that is not the background; found none"):
        CAMHead(3, in_feature="map", classes=ClassOrder.of(["background"]))


def test_an_image_without_any_class_is_known_to_show_none():
    head = head_of()
    features, images = padded_batch([(4, 4)], (4, 4), (2, 2))
    logits = features["map"].mean((2, 3))
    expected = F.multilabel_soft_margin_loss(logits, torch.zeros(1, 3))
    for weak in (labels_of((4, 4), tags=[]), labels_of((4, 4), tags=[2]), labels_of((4, 4), boxes=[(0, 0, 4, 4, 2)])):
        torch.testing.assert_close(head.losses(features, images, samples(weak))["loss_tags"], expected)


def test_without_known_tags_the_loss_is_zero_with_a_gradient():
    head = head_of()
    features, images = padded_batch(SIZES, (8, 9), (2, 3))
    loss = head.losses(features, images, samples(*map(labels_of, SIZES)))["loss_tags"]
    loss.backward()
    assert loss == 0 and torch.equal(head.classifier.weight.grad, torch.zeros(3, 3, 1, 1))


def test_tags_and_boxes_together_name_the_classes():
    head = head_of()
    assert head._shown(labels_of((4, 4), tags=[3], boxes=[(0, 0, 1, 1, 0)])).tolist() == [True, False, True]
    assert head._shown(labels_of((4, 4), tags=[1])).tolist() == [False, True, False]
    assert head._shown(labels_of((4, 4))) is None


def test_the_mean_over_ranks_is_the_loss_of_the_global_batch(monkeypatch):
    """Two ranks of one image and two, then of two and one; the tags of the last image are unknown."""
    head = head_of(weight=torch.eye(3).flip(0))
    features, images = padded_batch(SIZES, (8, 9), (2, 3))
    whole = samples(*KNOWN, labels_of(SIZES[2]))
    expected = head.losses(features, images, whole)["loss_tags"]
    calls = []

    def all_reduce(count):
        calls.append(count.item())
        count.fill_(2.0)

    monkeypatch.setattr("weakseg.methods.spml.cam_head.comm.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_reduce", all_reduce)
    for first in (1, 2):
        parts = [
            head.losses({"map": features["map"][part]}, ImageList(images.tensor[part], SIZES[part]), whole[part])
            for part in (slice(0, first), slice(first, 3))
        ]
        torch.testing.assert_close((parts[0]["loss_tags"] + parts[1]["loss_tags"]) / 2, expected)
    assert calls == [1, 1, 2, 0]


def test_half_precision_is_left_behind_the_classifier():
    head = head_of(weight=torch.eye(3).flip(0))
    features, images = padded_batch(SIZES, (8, 9), (2, 3))
    expected = head.losses(features, images, samples(*KNOWN, labels_of(SIZES[2])))["loss_tags"]
    with torch.autocast("cpu", torch.bfloat16):
        loss = head.losses(features, images, samples(*KNOWN, labels_of(SIZES[2])))["loss_tags"]
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0)


def predicted(head, features, images, batch):
    return [r["sem_seg"] for r in head.finish([(plain_view(images), head(features, images, batch))], batch)]


def test_prediction_by_hand():
    """Cells of 1 x 1 pixel. Two images, the second smaller and scaled up by 2."""
    head = head_of(alpha=2.0)
    images = ImageList(torch.zeros(2, 3, 1, 4), [(1, 4), (1, 1)])
    features = torch.zeros(2, 3, 1, 4)
    features[0, 0, 0] = torch.tensor([8.0, 4.0, 2.0, -3.0])
    features[0, 1, 0] = torch.tensor([-9.0, 3.0, 1.0, -2.0])  # below 0 on average: not in the image
    features[0, 2, 0] = torch.tensor([-1.0, 0.0, 1.0, 2.0])
    features[1, 2] = 5
    features[1, :, :, 1:] = -90  # padding
    batch = [{"height": 1, "width": 4}, {"height": 2, "width": 2}]
    # Scores of cat 1, .5, .25, 0, of owl 0, 0, .5, 1, of the background 0, .25, .25, 0. House classes.
    first, second = predicted(head, {"map": features}, images, batch)
    assert first.tolist() == [[0, 0, 3, 3]]
    assert second.tolist() == [[3, 3], [3, 3]]
    # A class of probability 0.5 or less is not in the image: background everywhere.
    features[0] -= 9
    assert predicted(head, {"map": features}, images, batch)[0].tolist() == [[2, 2, 2, 2]]
    features[:] = 0
    assert predicted(head, {"map": features}, images, batch)[0].tolist() == [[2, 2, 2, 2]]


def test_prediction_without_a_background_names_a_class_everywhere():
    head = head_of(("cat", "dog", "owl"))
    images = ImageList(torch.zeros(1, 3, 1, 4), [(1, 4)])
    features = torch.zeros(1, 3, 1, 4)
    features[0, 1, 0] = torch.tensor([0.0, 3.0, 4.0, 0.0])
    features[0, 2, 0] = torch.tensor([0.0, 9.0, 0.1, 3.0])
    features[0, 0] = -1
    batch = [{"height": 1, "width": 4}]
    # Shares of dog 0, .75, 1, 0 and of owl 0, 1, .01, .33; the cat is not there, although where both are 0 it is first.
    assert predicted(head, {"map": features}, images, batch)[0].tolist() == [[1, 2, 1, 2]]
    features[0, 1:] -= 9
    features[0, 1] -= 1
    # No class is likely: the likeliest, the cat.
    assert predicted(head, {"map": features}, images, batch)[0].tolist() == [[0, 0, 0, 0]]


def test_one_class_and_a_background():
    head = head_of(("background", "cat"))
    images = ImageList(torch.zeros(1, 3, 1, 2), [(1, 2)])
    features = torch.zeros(1, 3, 1, 2)
    features[0, 0, 0] = torch.tensor([4.0, 0.4])
    assert predicted(head, {"map": features}, images, [{"height": 1, "width": 2}])[0].tolist() == [[1, 0]]
    loss = head.losses({"map": features}, images, samples(labels_of((1, 2), tags=[1])))["loss_tags"]
    torch.testing.assert_close(loss, torch.log1p(torch.exp(torch.tensor(-2.2))))


def test_several_views_are_refused():
    with pytest.raises(ValueError, match="one view"):
        head_of().finish([], [])


def test_the_classifier_learns_ten_times_as_fast():
    backbone = nn.Conv2d(3, 3, 1)
    head = head_of(head_lr_factor=7.0, bias_lr_factor=3.0)
    groups = head.parameter_groups(SimpleNamespace(backbone=backbone))
    found = {id(p): (g["lr_mult"], g["decay_mult"]) for g in groups for p in g["params"]}
    parameters = (backbone.weight, backbone.bias, head.classifier.weight)
    assert [found.pop(id(p)) for p in parameters] == [(1, 1), (3, 0), (7, 1)] and not found


def tagged(label_file):
    """The label file with tags and without boxes."""
    labels = read_label_file(label_file)
    images = [
        {**image, "tags": sorted({a["category_id"] for a in labels.annotations[image["id"]]})}
        for image in labels.images
    ]
    annotations = copy.deepcopy(labels.annotations)
    for items in annotations.values():
        for item in items:
            del item["bbox"]
    path = label_file.with_name("tagged.json")
    write_label_file(path, LabelFile(labels.categories, images, annotations, labels.info))
    return path


@pytest.mark.parametrize("kind", ["tags", "boxes"])
def test_a_run_trains_and_makes_labels(kind, tmp_path):
    label_file = scenes(tmp_path, count=2, size=64)
    label_file = tagged(label_file) if kind == "tags" else label_file
    cfg = shrunk_config(
        CONFIGS / "point2mask/demo.yaml",
        label_file,
        tmp_path / "output",
        INPUT__SUPERVISION=(kind,),
        SOLVER__MAX_ITER=2,
        DATASETS__TEST=(),
        **CAM_RUN,
    )
    trainer = Trainer(cfg)
    classifier = trainer.module.head.classifier.weight
    assert classifier.shape[0] == 6
    before = classifier.detach().clone()
    trainer.train()
    assert not torch.equal(before, classifier) and torch.isfinite(classifier).all()
    losses = trainer.module.train()(next(iter(build_train_loader(cfg, WeakMapper(cfg, True)))))
    assert losses["loss_tags"] > 0 and torch.isfinite(losses["loss_tags"])

    model = trainer.module.eval()
    batch = next(iter(build_train_loader(cfg, WeakMapper(cfg, True))))
    for sample, result in zip(batch, model.pseudo_labels(batch), strict=True):
        weak = sample["weak"]
        shown = set((weak.tags if kind == "tags" else weak.classes).tolist())
        assert set(result["cams"]) == {str(number) for number in shown}
        assert all(cam.shape == (64, 64) and 0 <= cam.min() and cam.max() <= 1 for cam in result["cams"].values())
        assert result["sem_seg"].shape == (64, 64) and result["sem_seg"].dtype == torch.int64
        assert set(result["sem_seg"].unique().tolist()) <= shown | {255}


def test_a_run_is_evaluated_by_its_mean_iou(tmp_path):
    label_file = tagged(scenes(tmp_path, count=2, size=64))
    cfg = shrunk_config(CONFIGS / "point2mask/demo.yaml", label_file, tmp_path, INPUT__SUPERVISION=("tags",), **CAM_RUN)
    name = f"cams {tmp_path}"
    register_label_file(name, label_file, tmp_path, "weakseg_sem_seg")
    try:
        cfg.DATASETS.TEST = (name,)
        model = build_model(cfg).eval()
        scores = Trainer.test(cfg, model)["sem_seg"]
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    assert 0 <= scores["mIoU"] <= 100


@pytest.mark.parametrize("name", ["voc_cam", "voc_cam_mobilenet_small"])
def test_the_configs_learn_from_tags_alone(name, tmp_path):
    cfg = load_config(CONFIGS / f"spml/{name}.yaml")
    assert (tuple(cfg.INPUT.SUPERVISION), tuple(cfg.INPUT.EVIDENCE)) == (("tags",), ())
    # Pseudo labels are wanted at the size of the stored image.
    assert (cfg.INPUT.AUGMENTATION, cfg.INPUT.MIN_SIZE_TEST) == ("resize_flip", 0)
    cfg.DATASETS.TRAIN, cfg.MODEL.BACKBONE.WEIGHTS = (str(classes_only(tmp_path / "labels.json", 20, 1)),), ""
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    assert model.head.classifier.weight.shape[:2] == (21, model.backbone.output_shape()["res5"].channels)
    assert (model.head.alpha, model.head.tag_threshold, model.head.box_threshold) == (6.0, 0.2, 0.5)
    assert model.head.scales == (0.5, 1.0, 1.5, 2.0)
    rates = {group["lr_mult"] for group in model.parameter_groups() for p in group["params"]}
    assert rates >= {1.0, 10.0}
