"""Evidence "semantic": grey values and palette indices as stored, one label PNG an image."""

import pickle

import numpy as np
import pytest
from detectron2.config import CfgNode

from hostile import refused
from weakseg.proposals import LabelMaps
from weakseg.proposals.label_maps import semantic
from weakseg.proposals.map_folder import declare_provenance
from weakseg.safe_io import read_image_size, write_png

RECORD = {"file_name": "photos/a.jpg", "image_id": 1, "height": 2, "width": 4}
VALUES = np.array([[0, 1, 20, 21], [0, 253, 254, 255]], dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    write_png(tmp_path / "maps/a.png", VALUES)
    return tmp_path / "maps"


def test_grey_values_as_stored(folder):
    loader = semantic(CfgNode({"INPUT": CfgNode({"SEMANTIC_ROOT": str(folder)})}))
    found = pickle.loads(pickle.dumps(loader))(RECORD)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, VALUES)


def test_palette_indices_and_not_their_colours(folder):
    write_png(folder / "a.png", VALUES, palette=np.full((256, 3), 77, np.uint8))
    np.testing.assert_array_equal(LabelMaps(folder)(RECORD), VALUES)


def test_a_real_label_png(data_dir):
    """VOC's own truth has a palette; 15 is a person, 0 the background, 255 void."""
    photo = data_dir / "voc/JPEGImages/2007_000720.jpg"
    height, width = read_image_size(photo)
    loader = LabelMaps(data_dir / "voc/SegmentationClass")
    found = loader({"file_name": str(photo), "image_id": 1, "height": height, "width": width})
    assert {0, 255} < set(np.unique(found).tolist()) <= {*range(21), 255}


def test_where_it_comes_from(folder):
    assert LabelMaps(folder).provenance == f"label maps in {folder}, made by something that nothing there names"
    declare_provenance(folder, "hand", what="label maps")
    assert LabelMaps(folder).provenance == f"label maps in {folder}, made by hand"


def test_what_is_missing_or_wrong_is_named(folder):
    for root in ("", folder / "none"):
        with pytest.raises(FileNotFoundError, match="INPUT.SEMANTIC_ROOT: expected a folder.*make_pseudo_labels"):
            LabelMaps(root)
    loader = LabelMaps(folder)
    with pytest.raises(FileNotFoundError, match=r"b\.png: expected the label map of photos/b\.jpg; found none"):
        loader({**RECORD, "file_name": "photos/b.jpg"})
    refused(r"a\.png: expected an 8-bit map.* of 5 x 2 pixels; found uint8", loader, {**RECORD, "width": 5})
    refused(r"of 4 x 3 pixels", loader, {**RECORD, "height": 3})
    write_png(folder / "a.png", np.zeros((2, 4, 3), np.uint8))
    refused(r"found uint8 of shape \(2, 4, 3\)", loader, RECORD)
    write_png(folder / "a.png", np.zeros((2, 4), np.uint16))
    refused(r"found (uint16|int32) of shape \(2, 4\)", loader, RECORD)
