"""A checkpoint alone predicts; DefaultPredictor and WeakPredictor agree; wrong files are named."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor

from tiny import CONFIGS, scenes, shrunk_config
from weakseg.engine.trainer import Trainer
from weakseg.inference import WeakPredictor
from weakseg.safe_io import read_image, read_weights

DEMO = CONFIGS / "point2mask/demo.yaml"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    cfg = shrunk_config(
        DEMO,
        scenes(folder, count=2),
        folder / "out",
        SOLVER__MAX_ITER=2,
        DATASETS__TEST=(),
        INPUT__MIN_SIZE_TEST=0,
        MODEL__POINT2MASK__TEST__QUALITY_THRESH_STUFF=0.0,
        MODEL__POINT2MASK__TEST__QUALITY_THRESH_THING=0.0,
    )
    trainer = Trainer(cfg)
    trainer.train()
    image = read_image(folder / "train/00001.png")
    result = trainer.module.eval()(
        [{"image": torch.from_numpy(image.transpose(2, 0, 1).copy()), "height": 64, "width": 64}]
    )
    return cfg, folder / "out/model_final.pth", image, result[0]


def test_a_checkpoint_alone_predicts_what_training_left(trained):
    _, path, image, expected = trained
    predictor = WeakPredictor.from_checkpoint(path, device="cpu")
    assert predictor.metadata.thing_classes == ["ball", "crate", "cone", "ring"]
    result = predictor(image[:, :, ::-1])
    assert torch.equal(result["panoptic_seg"][0], expected["panoptic_seg"][0])
    assert result["panoptic_seg"][1] == expected["panoptic_seg"][1]
    assert torch.equal(result["sem_seg"], expected["sem_seg"])


def test_default_predictor_works(trained):
    cfg, path, image, expected = trained
    cfg = cfg.clone()
    cfg.MODEL.WEIGHTS = str(path)
    cfg.DATASETS.TEST = cfg.DATASETS.TRAIN
    result = DefaultPredictor(cfg)(image[:, :, ::-1])
    assert torch.equal(result["panoptic_seg"][0], expected["panoptic_seg"][0])
    cfg.MODEL.BACKBONE.WEIGHTS = "not/here.pth"
    cfg.freeze()
    assert torch.equal(WeakPredictor(cfg)(image[:, :, ::-1])["sem_seg"], expected["sem_seg"])


def test_results_are_at_the_size_of_the_image(trained):
    _, path, _, _ = trained
    predictor = WeakPredictor.from_checkpoint(path, device="cpu", opts=["INPUT.MIN_SIZE_TEST", "64"])
    result = predictor(np.zeros((50, 90, 3), np.uint8))
    assert result["panoptic_seg"][0].shape == result["sem_seg"].shape == (50, 90)


@pytest.fixture
def seen(trained, monkeypatch):
    """A predictor at twice the size of a 30 x 40 image, and the last sample that its model saw."""
    opts = ["INPUT.MIN_SIZE_TEST", "60", "INPUT.MAX_SIZE_TEST", "1000"]
    predictor = WeakPredictor.from_checkpoint(trained[1], device="cpu", opts=opts)
    seen = SimpleNamespace(predictor=predictor, image=np.zeros((30, 40, 3), np.uint8))

    def model(batch):
        (seen.sample,) = batch
        return [{}]

    predictor.model = model
    return seen


def test_labels_and_evidence_reach_the_head_at_the_size_of_its_image(seen):
    seen.image[:, :, 0] = 200  # blue, as the image is BGR
    edges = np.zeros((30, 40), np.float32)
    edges[:, 20:] = 1
    seen.predictor(
        seen.image,
        points=np.array([[10, 5.5, 3], [39.5, 29, 0]]),
        tags=[4, 1],
        expressions=["the red ball"],
        evidence={"edges": edges, "parts": np.arange(1200).reshape(30, 40)},
    )
    sample, weak = seen.sample, seen.sample["weak"]
    assert (sample["height"], sample["width"]) == (30, 40)
    assert sample["image"].shape == (3, 60, 80) and weak.image_size == (60, 80)
    assert sample["image"].amax((1, 2)).tolist() == [0, 0, 200], "the demo's format is RGB"
    assert weak.points.tolist() == [[20, 11], [79, 58]]
    assert weak.point_target.tolist() == [0, 1] and weak.point_positive.tolist() == [True, True]
    assert weak.classes.tolist() == [3, 0, 255] and weak.expression_target.tolist() == [2]
    assert weak.expressions == ["the red ball"] and weak.tags.tolist() == [4, 1]
    assert sample["evidence"]["edges"][:, :39].max() == 0 and sample["evidence"]["edges"][:, 41:].min() == 1
    assert sample["evidence"]["parts"][59, 78:].tolist() == [1199, 1199]


def test_without_labels_tags_are_unknown(seen):
    seen.predictor(seen.image)
    assert len(seen.sample["weak"]) == 0 and seen.sample["weak"].tags is None and seen.sample["evidence"] == {}
    seen.predictor(seen.image, tags=[])
    assert seen.sample["weak"].tags.tolist() == []


@pytest.mark.parametrize(
    "image, found",
    [
        (np.zeros((4, 5), np.uint8), r"\(4, 5\) uint8"),
        (np.zeros((4, 5, 4), np.uint8), r"\(4, 5, 4\) uint8"),
        (np.zeros((4, 5, 3), np.float32), r"\(4, 5, 3\) float32"),
        (np.zeros((0, 5, 3), np.uint8), r"\(0, 5, 3\) uint8"),
        ("photo.jpg", "a str"),
        (torch.zeros(4, 5, 3, dtype=torch.uint8), "a Tensor"),
    ],
)
def test_what_is_no_image_is_refused(seen, image, found):
    with pytest.raises(ValueError, match=rf"image: expected an array \(H, W, 3\) of uint8 in BGR; found {found}\. "):
        seen.predictor(image)


@pytest.mark.parametrize(
    "labels, message",
    [
        ({"points": [(40, 5, 0)]}, r"points: .* image of 40 x 30 pixels, class 0 to \d; found \(40, 5, 0\)"),
        ({"points": [(5, 30, 0)]}, "points: expected"),
        ({"points": [(-1, 5, 0)]}, "points: expected"),
        ({"points": [(5, -1, 0)]}, "points: expected"),
        ({"points": [(5, float("nan"), 0)]}, "points: expected"),
        ({"points": [(5, 5, 99)]}, "points: expected"),
        ({"points": [(5, 5, 0.5)]}, "points: expected"),
        ({"points": [(5, 5)]}, "points: expected"),
        ({"points": [5, 5, 0]}, "points: expected .*; found 5"),
        ({"tags": [0, 99]}, "tags: expected class indices 0 to .*; found 99"),
        ({"expressions": "the ball"}, "expressions: expected a list of sentences; found 'the ball'"),
        ({"evidence": {"edges": np.zeros((40, 30))}}, "evidence edges: .* 40 x 30 pixels; found the shape .40, 30."),
    ],
)
def test_labels_that_do_not_fit_the_image_are_refused(seen, labels, message):
    with pytest.raises(ValueError, match=message):
        seen.predictor(seen.image, **labels)


def test_a_checkpoint_of_another_network_is_refused(trained):
    cfg = trained[0].clone()
    cfg.MODEL.WEIGHTS, cfg.MODEL.POINT2MASK.NUM_QUERIES = str(trained[1]), 11
    with pytest.raises(
        ValueError, match="model_final.pth: expected exactly the .* tensors of another shape .* Use the"
    ):
        WeakPredictor(cfg)


def test_a_file_written_anew_with_other_names_has_these(trained, tmp_path):
    content = read_weights(trained[1])
    for names in (["ball", "crate", "cone", "ring"], ["bell", "crate", "cone", "ring"]):
        content["metadata"]["thing_classes"] = names
        torch.save(content, tmp_path / "model.pth")
        assert WeakPredictor.from_checkpoint(tmp_path / "model.pth", device="cpu").metadata.thing_classes == names


def test_a_stored_config_may_have_the_keys_that_have_no_default(trained, tmp_path):
    content = read_weights(trained[1])
    cfg = CfgNode.load_cfg(content["config"])
    cfg.MODEL.TIMM.ARGUMENTS.drop_rate = 0.25
    torch.save(content | {"config": cfg.dump()}, tmp_path / "model.pth")
    predictor = WeakPredictor.from_checkpoint(tmp_path / "model.pth", device="cpu")
    assert predictor.cfg.MODEL.TIMM.ARGUMENTS.drop_rate == 0.25


def test_a_file_that_is_no_checkpoint_is_named(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(
        ValueError, match=r"other.pth: expected a checkpoint with config, metadata and model; found weight"
    ):
        WeakPredictor.from_checkpoint(tmp_path / "other.pth")
    with pytest.raises(FileNotFoundError, match="none.pth"):
        WeakPredictor.from_checkpoint(tmp_path / "none.pth")
