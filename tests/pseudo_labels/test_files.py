"""What becomes of each kind of result: values, types, palette; by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

from hostile import refused
from weakseg.labels import ClassOrder
from weakseg.proposals import ActivationMaps, LabelMaps
from weakseg.pseudo_labels import RESULT_FILES
from weakseg.safe_io import read_npz

ORDER = ClassOrder.of(["cat", "dog", "background"])
RECORD = {"file_name": "photos/a.b.jpg", "image_id": 1, "height": 2, "width": 3}


def written(key, result, root):
    kind = RESULT_FILES[key]
    path = kind.path(root, RECORD["file_name"])
    kind.write(path, result, ORDER, (RECORD["height"], RECORD["width"]))
    return path


def test_label_maps(tmp_path):
    path = written("sem_seg", torch.tensor([[0, 1, 2], [255, 2, 1]]), tmp_path)
    assert path == tmp_path / "semantic/a.b.png"
    expected = [[1, 2, 0], [254, 0, 2]]
    with Image.open(path) as image:
        assert image.mode == "P" and np.array(image).tolist() == expected
        # VOC's colours: the background black, then dark red and dark green.
        assert np.array(image.convert("RGB"))[0].tolist() == [[128, 0, 0], [0, 128, 0], [0, 0, 0]]
    assert LabelMaps(tmp_path / "semantic")(RECORD).tolist() == expected


@pytest.mark.parametrize(
    ("key", "result", "sentence"),
    [
        (
            "sem_seg",
            torch.zeros(3, 2, 3),
            "a map of class indices of 3 x 2 pixels, .*float32 of shape (3, 2, 3)",
        ),
        ("sem_seg", torch.zeros(2, 3), "a map of class indices of 3 x 2 pixels, .* torch.float32 of shape (2, 3)"),
        ("sem_seg", torch.zeros(3, 2).long(), "of 3 x 2 pixels, .* torch.int64 of shape (3, 2)"),
        ("cams", {"0": torch.zeros(2, 3), "4": torch.zeros(2, 2)}, "a map of class 4 of 3 x 2 .* shape (2, 2)"),
    ],
)
def test_scores_and_other_sizes_are_refused(tmp_path, key, result, sentence):
    refused(sentence.replace("(", r"\(").replace(")", r"\)"), written, key, result, tmp_path)
    assert not list(tmp_path.rglob("*.*"))


def test_prototypes(tmp_path):
    vectors = torch.tensor([[0.1, 0.7], [1.0, -3.0]], dtype=torch.float64)
    path = written("prototypes", {"prototype": vectors, "prototype_label": torch.tensor([3, 254])}, tmp_path)
    assert path == tmp_path / "prototypes/a.b.npz"
    found = read_npz(path)
    assert found.keys() == {"prototype", "prototype_label"}
    assert found["prototype"].dtype == np.float32 and found["prototype_label"].dtype == np.int64
    np.testing.assert_array_equal(found["prototype"], vectors.numpy().astype(np.float32))
    assert found["prototype_label"].tolist() == [3, 254]


def test_cams(tmp_path):
    maps = torch.tensor([[0.0, 0.25, 1.0], [0.1, 0.5, 1 / 3]])
    path = written("cams", {"1": maps}, tmp_path)
    assert path == tmp_path / "cams/a.b.npz"
    assert read_npz(path)["1"].dtype == np.float16
    found = ActivationMaps(tmp_path / "cams")(RECORD)
    assert found.shape == (2, 3, 2) and not found[..., 0].any()
    np.testing.assert_array_equal(found[..., 1], maps.numpy().astype(np.float16))
    written("cams", {}, tmp_path)
    assert ActivationMaps(tmp_path / "cams")(RECORD).tolist() == np.zeros((2, 3, 1)).tolist()
