"""From a record to a sample: reading, sizes, labels, evidence, and the head's preparation."""

import cv2
import numpy as np
import pytest
import torch

from weakseg.data.augmentation import ResizeFlip
from weakseg.data.mapper import WeakMapper

GENERATOR = np.random.default_rng(0)


@pytest.fixture
def record(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    annotations = [
        {"category_id": 1, "iscrowd": 0, "point_coords": [[19.5, 3.25]]},
        {"category_id": 0, "iscrowd": 1, "point_coords": [[4.0, 11.0], [1.0, 2.0]], "point_labels": [1, 0]},
    ]
    return {
        "file_name": str(tmp_path / "a.png"),
        "image_id": 17,
        "height": 12,
        "width": 20,
        "annotations": annotations,
        "bgr": pixels,
    }


def mapper(image_format="BGR", evidence=None, prepare=None, **augmentation):
    augment = ResizeFlip(**{"short_sides": (0,), "long_side": 100, **augmentation})
    return WeakMapper(augmentation=augment, image_format=image_format, evidence=evidence or {}, prepare=prepare)


@pytest.mark.parametrize("image_format", ["BGR", "RGB"])
def test_the_sample_of_an_unchanged_image(record, image_format):
    sample = mapper(image_format)(record, GENERATOR)
    assert set(sample) == {"file_name", "image_id", "height", "width", "image", "weak", "evidence"}
    assert (sample["image_id"], sample["height"], sample["width"]) == (17, 12, 20)
    assert sample["image"].dtype == torch.uint8 and sample["evidence"] == {}
    expected = record["bgr"] if image_format == "BGR" else record["bgr"][..., ::-1]
    np.testing.assert_array_equal(sample["image"].numpy().transpose(1, 2, 0), expected)
    weak = sample["weak"]
    assert weak.image_size == (12, 20)
    assert weak.classes.tolist() == [1, 0] and weak.is_crowd.tolist() == [False, True]
    assert weak.points.tolist() == [[19.5, 3.25], [4.0, 11.0], [1.0, 2.0]]
    assert weak.point_target.tolist() == [0, 1, 1] and weak.point_positive.tolist() == [True, True, False]


def test_height_and_width_stay_those_of_the_stored_image(record):
    sample = mapper(short_sides=(6,))(record, GENERATOR)
    assert tuple(sample["image"].shape) == (3, 6, 10) and sample["weak"].image_size == (6, 10)
    assert (sample["height"], sample["width"]) == (12, 20)


def test_evidence_follows_the_image(record):
    def green(record):
        return record["bgr"][..., 1].astype(np.float32)

    sample = mapper(evidence={"green": green}, flip_probability=1.0)(record, GENERATOR)
    assert sample["evidence"]["green"].flags.c_contiguous
    np.testing.assert_array_equal(sample["evidence"]["green"], sample["image"][1].numpy())


def test_the_head_prepares_last(record):
    sample = mapper(prepare=lambda sample: {"size": tuple(sample["image"].shape), **sample})(record, GENERATOR)
    assert sample["size"] == (3, 12, 20)


def test_another_size_than_in_the_label_file_is_named(record):
    record["width"] = 21
    with pytest.raises(ValueError, match=r"a\.png \(image 17\): expected 21 x 12 pixels.*found 20 x 12"):
        mapper()(record, GENERATOR)


def test_evidence_of_another_size_is_named(record):
    with pytest.raises(ValueError, match=r"Evidence edges of .*a\.png \(image 17\): expected 20 x 12.*found 12 x 20"):
        mapper(evidence={"edges": lambda record: np.zeros((20, 12))})(record, GENERATOR)


def test_a_missing_image_is_named(record):
    record["file_name"] = record["file_name"].replace("a.png", "gone.png")
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        mapper()(record, GENERATOR)


def test_a_truncated_image_is_named(record, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    encoded = cv2.imencode(".jpg", pixels)[1].tobytes()
    (tmp_path / "cut.jpg").write_bytes(encoded[: len(encoded) // 2])
    record["file_name"] = str(tmp_path / "cut.jpg")
    with pytest.raises(ValueError, match=r"cut\.jpg"):
        mapper()(record, GENERATOR)


def test_built_from_a_config(cfg, record):
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TRAIN = (24,)
    cfg.INPUT.RANDOM_FLIP = "none"
    prepared = []
    train = WeakMapper(cfg, True, prepare=lambda sample: prepared.append(sample) or sample)
    sample = train(record, GENERATOR)
    assert tuple(sample["image"].shape) == (3, 24, 40) and prepared == [sample]
    expected = cv2.resize(record["bgr"][..., ::-1], (40, 24), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(sample["image"].numpy().transpose(1, 2, 0), expected)
    cfg.INPUT.MIN_SIZE_TEST = 18
    assert tuple(WeakMapper(cfg, False)(record, GENERATOR)["image"].shape) == (3, 18, 30)


def test_evidence_at_test_time_only_with_proposals(cfg, monkeypatch):
    monkeypatch.setattr("weakseg.data.mapper.build_evidence", lambda cfg: {"toy": None})
    assert WeakMapper(cfg, True).evidence == {"toy": None}
    assert WeakMapper(cfg, False).evidence == {}
    cfg.TEST.INPUTS = ("proposals",)
    assert WeakMapper(cfg, False).evidence == {"toy": None}
