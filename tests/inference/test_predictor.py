"""A checkpoint alone predicts; DefaultPredictor and WeakPredictor agree; wrong files are named."""

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor

from tiny import CONFIGS, scenes, shrunk_config
from weakseg.engine.trainer import Trainer
from weakseg.inference.predictor import WeakPredictor
from weakseg.safe_io import read_image

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
    assert torch.equal(WeakPredictor(cfg)(image[:, :, ::-1])["sem_seg"], expected["sem_seg"])


def test_results_are_at_the_size_of_the_image(trained):
    _, path, _, _ = trained
    predictor = WeakPredictor.from_checkpoint(path, device="cpu", opts=["INPUT.MIN_SIZE_TEST", "64"])
    result = predictor(np.zeros((50, 90, 3), np.uint8))
    assert result["panoptic_seg"][0].shape == result["sem_seg"].shape == (50, 90)


def test_a_file_that_is_no_checkpoint_is_named(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(
        ValueError, match=r"other.pth: expected a checkpoint with config, metadata and model; found weight"
    ):
        WeakPredictor.from_checkpoint(tmp_path / "other.pth")
    with pytest.raises(FileNotFoundError, match="none.pth"):
        WeakPredictor.from_checkpoint(tmp_path / "none.pth")
