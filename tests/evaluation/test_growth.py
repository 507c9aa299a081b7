"""How well grown masks fit, by hand; one sheet an image."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import nn

from tiny import scenes
from weakseg.data import dataset_metadata
from weakseg.data.catalog import register_label_file
from weakseg.evaluation.growth import (
    compare_growth,
    known_pixels,
    nearest_masks,
    overlap,
    positive_points,
    show_growth,
    target_overlaps,
)
from weakseg.evaluation.truth import Truth
from weakseg.labels import LabelFile, encode_mask, read_label_file, write_label_file
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
    overlaps = target_overlaps(ids, true_ids, np.array([[0.2, 0.9], [2.7, 0.1], [3.5, 0.5]]), true_ids > 0)
    assert overlaps == [2 / 3, 1 / 4, 0.0]


def test_void_pixels_do_not_count():
    true_ids = np.array([[1, 1, 0, 0, 2, 2]])
    ids = np.array([[5, 5, 5, 5, 5, 6]])
    points = np.array([[0.5, 0.5], [5.5, 0.5], [2.5, 0.5]])  # the last on void, of which there is no true segment
    void = known_pixels(true_ids > 0, num_stuff=1)
    assert target_overlaps(ids, true_ids, points, void) == [2 / 3, 1 / 2]
    background = known_pixels(true_ids > 0, num_stuff=0)  # things alone: what is of no thing is known to be of none
    assert target_overlaps(ids, true_ids, points, background) == [2 / 5, 1 / 2]


def test_overlap_by_hand():
    mask, true_mask = np.array([[1, 1, 1, 0, 0]], bool), np.array([[0, 1, 1, 1, 0]], bool)
    assert overlap(mask, true_mask, np.ones((1, 5), bool)) == 2 / 4
    assert overlap(mask, true_mask, np.array([[1, 1, 0, 0, 1]], bool)) == 1 / 2
    assert overlap(mask, true_mask, np.array([[0, 0, 0, 0, 1]], bool)) == 0


def test_points_on_their_annotation():
    items = [{"point_coords": [[1, 2], [3, 4]], "point_labels": [0, 1]}, {}, {"point_coords": [[5, 6]]}]
    points, target = positive_points(items)
    assert points.tolist() == [[3, 4], [5, 6]] and target.tolist() == [0, 2]
    assert [part.shape for part in positive_points([{}])] == [(0, 2), (0,)]


def label_file(annotations, stuff=True):
    """One image of 1 x 10; annotations: (class, x of its point or None, columns of its mask or None)."""
    categories = [{"id": k, "name": str(k), "isthing": int(k < 2 or not stuff)} for k in range(3)]
    items = []
    for k, (category, x, columns) in enumerate(annotations):
        items.append({"id": k + 1, "image_id": 7, "category_id": category})
        if x is not None:
            items[-1]["point_coords"] = [[x, 0.5]]
        if columns is not None:
            items[-1]["segmentation"] = encode_mask(np.isin(np.arange(10), columns)[None])
    return LabelFile(categories, [{"id": 7, "file_name": "a.png", "height": 1, "width": 10}], {7: items})


TRUTH = [(0, 0.5, range(0, 2)), (1, 3.5, range(3, 5)), (0, 5.5, [5]), (2, 9.5, range(6, 9)), (0, None, [9])]


def test_the_comparison_of_a_label_file_by_hand():
    """Column 2 is void; the last annotation has no point and does not count."""
    labels = label_file(TRUTH)
    grown = label_file([(0, 0.5, range(0, 3)), (1, 3.5, range(3, 6)), (0, 5.5, None), (2, 9.5, range(6, 10))])
    found = compare_growth(labels, grown.annotations)
    columns = ["3 things", "2 thing classes", "1 stuff", "all 4"]
    # Nearest point: columns 0-1, 2-4 (3.5 is 1 from the middle of 2, 0.5 is 2), 5-7 (middle of 7: 2 from 5.5 and 9.5).
    nearest = [2 / 2, 2 / 2, 1 / 3, 1 / 4]
    # An image of one row is all border, so stuff; but for the pixels whose very middle is the point of a thing.
    border = [1 / 2, 1 / 2, 1 / 1, 3 / 6]
    own = [2 / 2, 2 / 3, 0, 3 / 4]
    for name, (a, b, c, d) in (("nearest point", nearest), ("nearest point or border", border), ("grown", own)):
        expected = [(a + b + c) / 3, ((a + c) / 2 + b) / 2, d, (a + b + c + d) / 4]
        assert list(found[name]) == columns
        np.testing.assert_allclose([*found[name].values()], 100 * np.array(expected), err_msg=name)
    assert compare_growth(labels, {}) == {}
    assert compare_growth(label_file([(0, 0.5, None), (1, None, [3])]), grown.annotations) == {}


def test_a_file_of_things_has_background_and_no_void():
    labels = label_file([(0, 0.5, range(0, 2))], stuff=False)
    found = compare_growth(labels, label_file([(0, 0.5, range(0, 5))], stuff=False).annotations)
    assert found["grown"] == {"1 things": 40, "1 thing classes": 40, "all 1": 40}


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


def batches_of(records):
    batches = []
    for record in records:
        image = torch.from_numpy(read_image(record["file_name"]).transpose(2, 0, 1).copy())
        evidence = {"edges": np.zeros(image.shape[1:], np.float32)}
        batches.append([{**record, "image": image, "weak": weak_labels(record), "evidence": evidence}])
    return batches


@pytest.fixture
def register(tmp_path):
    """register(label file) -> batches and metadata of the scenes that lie in tmp_path."""

    def register(path):
        register_label_file("growth_scenes", path, tmp_path)
        return batches_of(DatasetCatalog.get("growth_scenes")), dataset_metadata("growth_scenes")

    yield register
    DatasetCatalog.remove("growth_scenes")
    MetadataCatalog.remove("growth_scenes")


@pytest.fixture
def data(register, tmp_path):
    path = scenes(tmp_path, count=2)
    return *register(path), len(read_label_file(path).images)


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


def test_void_and_images_without_points_are_not_compared(register, tmp_path):
    """The first image has no points. In the second, what is of its first annotation becomes void."""
    path = scenes(tmp_path, count=2)
    labels = read_label_file(path)
    empty, other = (image["id"] for image in labels.images)
    for item in labels.annotations[empty]:
        del item["point_coords"]
    gone, *kept = labels.annotations[other]
    labels.annotations[other] = kept
    write_label_file(path, labels)
    batches, metadata = register(path)
    truth = Truth(metadata)
    quality = show_growth(TrueMasks(truth, whole=True), batches, metadata, tmp_path / "out")
    ids, segments = truth.panoptic(other)
    assert (ids == 0).any() and len(segments) == len(kept)
    assert quality["pseudo masks"] == pytest.approx(100 / len(kept)), "shares of the known pixels: they sum to 1"
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    assert show_growth(TrueMasks(truth), batches[:1], metadata, tmp_path / "out") == {}
