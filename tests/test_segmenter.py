"""The meta-architecture with heads it does not know: a toy sixth head trains and predicts by registration alone."""

import pytest
import torch
from detectron2.config import configurable
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from torch import nn
from torch.nn import functional as F

from tiny import CONFIGS, scenes, shrunk_config
from weakseg.data.catalog import class_counts, metadata_of
from weakseg.engine.trainer import Trainer
from weakseg.heads import WEAK_HEAD_REGISTRY, WeakHead
from weakseg.labels import LabelKind

DEMO = CONFIGS / "point2mask/demo.yaml"


@pytest.fixture
def toy_head():
    """A head that scores each pixel of one feature map and learns from the labelled pixels alone."""

    class ToyHead(WeakHead):
        accepts = frozenset({LabelKind.POINTS})

        @configurable
        def __init__(self, *, channels, num_classes):
            super().__init__()
            self.classifier = nn.Conv2d(channels, num_classes, 1)
            self.register_buffer("steps", torch.zeros(1))

        @classmethod
        def from_config(cls, cfg, input_shape):
            return {"channels": input_shape["res2"].channels, "num_classes": sum(class_counts(metadata_of(cfg)))}

        def losses(self, features, images, batch):
            scores = self(features, images, batch)
            losses = [scores.sum() * 0]
            for score, sample in zip(scores, batch):
                weak = sample["weak"]
                x, y = weak.points.long().unbind(1)
                losses.append(F.cross_entropy(score[:, y, x].T, weak.classes[weak.point_target]))
            return {"loss_points": torch.stack(losses).mean()}

        def forward(self, features, images, batch):
            scores = self.classifier(features["res2"])
            return F.interpolate(scores, images.tensor.shape[-2:], mode="bilinear", align_corners=False)

        def finish(self, views, batch):
            ((view, scores),) = views
            results = []
            for score, (height, width), sample in zip(scores, view.image_sizes, batch):
                score = F.interpolate(score[None, :, :height, :width], (sample["height"], sample["width"]))[0]
                results.append(
                    {"sem_seg": score, "panoptic_seg": (torch.zeros(score.shape[1:], dtype=torch.int32), [])}
                )
            return results

        def after_step(self):
            self.steps += 1

    WEAK_HEAD_REGISTRY.register(ToyHead)
    yield ToyHead
    del WEAK_HEAD_REGISTRY._obj_map["ToyHead"]


def test_a_toy_head_trains_and_predicts(toy_head, tmp_path):
    label_file = scenes(tmp_path, count=6)
    cfg = shrunk_config(
        DEMO, label_file, tmp_path / "out", MODEL__WEAK_HEAD__NAME="ToyHead", SOLVER__MAX_ITER=25, SOLVER__STEPS=()
    )
    trainer = Trainer(cfg)
    before = trainer.test(cfg, trainer.module)["sem_seg"]["mIoU"]
    trainer.train()
    after = trainer.test(cfg, trainer.module)["sem_seg"]["mIoU"]
    assert after > before + 5
    assert trainer.module.head.steps.item() == 25


def test_an_unknown_head_and_a_refused_supervision_are_named(toy_head, tmp_path):
    label_file = scenes(tmp_path, count=1)
    with pytest.raises(ValueError, match="expected one of .*Point2MaskHead.*; found 'NoHead'"):
        build_model(shrunk_config(DEMO, label_file, tmp_path, MODEL__WEAK_HEAD__NAME="NoHead"))
    cfg = shrunk_config(
        DEMO, label_file, tmp_path, MODEL__WEAK_HEAD__NAME="ToyHead", INPUT__SUPERVISION=("points", "boxes")
    )
    with pytest.raises(ValueError, match="ToyHead learns from points; found boxes"):
        build_model(cfg)


def test_images_are_normalised_then_padded_with_zeros(tmp_path):
    model = build_model(shrunk_config(DEMO, scenes(tmp_path, count=1), tmp_path))
    first = torch.full((3, 8, 12), 255, dtype=torch.uint8)
    second = torch.zeros(3, 10, 6, dtype=torch.uint8)
    images = model.preprocess([{"image": first}, {"image": second}])
    assert isinstance(images, ImageList) and images.image_sizes == [(8, 12), (10, 6)]
    height, width = images.tensor.shape[-2:]
    assert height >= 10 and width >= 12
    torch.testing.assert_close(images.tensor[0, :, :8, :12], torch.full((3, 8, 12), (255 - 127.5) / 64))
    torch.testing.assert_close(images.tensor[1, :, :10, :6], torch.full((3, 10, 6), -127.5 / 64))
    assert images.tensor[0, :, 8:].abs().sum() == 0 and images.tensor[0, :, :, 12:].abs().sum() == 0


def test_train_mode_asks_the_head_what_stays_frozen(tmp_path, monkeypatch):
    model = build_model(shrunk_config(DEMO, scenes(tmp_path, count=1), tmp_path))
    asked = []
    monkeypatch.setattr(type(model.head), "set_train_mode", lambda self, whole: asked.append(whole))
    model.eval()
    assert asked == []
    model.train()
    assert asked == [model] and model.training
