"""How well grown masks fit, by hand; one sheet an image."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import nn

from tiny import scenes
from weakseg.data import dataset_metadata
from weakseg.data.catalog import register_label_file
from weakseg.evaluation.growth import nearest_masks, show_growth, target_overlaps
from weakseg.evaluation.truth import Truth
from weakseg.labels import read_label_file
from weakseg.labels.build import weak_labels
from weakseg.safe_io import read_image


def test_nearest_masks_by_a_loop():
    points = np.array([[2.6, 3.1], [17.5, 2.2], [10.0, 12.6], [18.9, 12.9]])
    target, is_stuff = np.array([0, 1, 1, 2]), np.array([False, False, True, False])
    for border in (False, True):
        owner = nearest_masks(points, target, is_stuff, (15, 21), border=border)
        for y in range(15):
            for x in range(21):
                distance = np.hypot(points[:, 0] - x - 0.5, points[:, 1] - y - 0.5)
                expected = target[distance.argmin()]
                # From pixel centre to the centre of the nearest pixel of the rim.
                if border and min(x, y, 20 - x, 14 - y) < distance.min():
                    expected = 2
                assert owner[y, x] == expected
    assert (nearest_masks(points, target, np.zeros(3, dtype=bool), (15, 21), border=True) != 2).any()


def test_the_rim_is_of_the_stuff_nearest_to_it():
    points = np.array([[3.5, 10.5], [17.5, 10.5], [10.5, 10.5]])
    owner = nearest_masks(points, np.arange(3), np.array([True, True, False]), (21, 21), border=True)
    assert owner[0, 4] == 0 and owner[0, 16] == 1 and owner[10, 10] == 2 and owner[20, 4] == 0


def test_overlap_is_of_the_segments_at_the_point():
    true_ids = np.array([[1, 1, 2, 2]])
    ids = np.array([[5, 5, 5, 0]])
    overlaps = target_overlaps(ids, true_ids, np.array([[0.2, 0.9], [2.7, 0.1], [3.5, 0.5]]))
    assert overlaps == [2 / 3, 1 / 4, 0.0]


class TrueMasks(nn.Module):
    """Grows points to the true segments, or to one segment everywhere."""

    def __init__(self, truth, whole=False):
        super().__init__()
        self.truth, self.whole = truth, whole

    def pseudo_labels(self, batch):
        (sample,) = batch
        ids, segments = self.truth.panoptic(sample["image_id"])
        ids = np.ones_like(ids) if self.whole else ids
        described = [{"id": k, "category_id": s.class_index, "isthing": True} for k, s in enumerate(segments, 1)]
        return [{"panoptic_seg": (torch.tensor(ids), described), "boundary": torch.rand(ids.shape)}]

    def forward(self, batch):
        return [{"panoptic_seg": self.pseudo_labels(batch)[0]["panoptic_seg"]}]


@pytest.fixture
def data(tmp_path):
    label_file = scenes(tmp_path, count=2)
    register_label_file("growth_scenes", label_file, tmp_path)
    records = DatasetCatalog.get("growth_scenes")
    batches = []
    for record in records:
        image = torch.from_numpy(read_image(record["file_name"]).transpose(2, 0, 1).copy())
        evidence = {"edges": np.zeros(image.shape[1:], np.float32)}
        batches.append([{**record, "image": image, "weak": weak_labels(record), "evidence": evidence}])
    yield batches, dataset_metadata("growth_scenes"), len(read_label_file(label_file).images)
    DatasetCatalog.remove("growth_scenes")
    MetadataCatalog.remove("growth_scenes")


@pytest.mark.parametrize("with_prediction", [False, True])
def test_one_sheet_an_image(data, tmp_path, with_prediction):
    batches, metadata, count = data
    truth = Truth(metadata)
    quality = show_growth(TrueMasks(truth), batches, metadata, tmp_path / "out", with_prediction=with_prediction)
    assert quality["pseudo masks"] == 100 and 0 < quality["nearest-point split"] < 90
    pictures = sorted((tmp_path / "out").glob("*.png"))
    assert len(pictures) == count
    panels = 6 + with_prediction  # image, points, boundary, edges, pseudo masks, (prediction,) truth
    assert read_image(pictures[0]).shape == (256 + 24, panels * (256 + 4), 3)


def test_one_segment_everywhere_fits_by_its_area(data, tmp_path):
    batches, metadata, _ = data
    truth = Truth(metadata)
    quality = show_growth(TrueMasks(truth, whole=True), batches, metadata, tmp_path / "out")
    shares = []
    for ((sample,),) in zip(batches):
        ids, _ = truth.panoptic(sample["image_id"])
        for x, y in sample["weak"].points.int().tolist():
            shares.append((ids == ids[y, x]).mean())
    assert quality["pseudo masks"] == pytest.approx(100 * np.mean(shares))
