"""Evidence "cams": the house's .npz, the two published forms of .npy, and what of them is refused."""

import pickle

import numpy as np
import pytest
from detectron2.config import CfgNode

from hostile import Bomb, refused
from weakseg.proposals import ActivationMaps
from weakseg.proposals.cams import cams
from weakseg.proposals.map_folder import declare_provenance
from weakseg.safe_io import read_image_size

RECORD = {"file_name": "photos/a.jpg", "image_id": 1, "height": 2, "width": 3}
FIRST = np.array([[0.0, 0.25, 1.0], [0.5, 0.125, 0.75]])
SECOND = FIRST[::-1]


def expected(first=0, second=2):
    maps = np.zeros((2, 3, max(first, second) + 1))
    maps[..., first], maps[..., second] = FIRST, SECOND
    return maps


def test_maps_of_the_house(tmp_path):
    np.savez(tmp_path / "a.npz", **{"2": SECOND.astype(np.float16), "0": FIRST.astype(np.float16)})
    loader = cams(CfgNode({"INPUT": CfgNode({"CAM_ROOT": str(tmp_path)})}))
    found = pickle.loads(pickle.dumps(loader))(RECORD)
    assert found.dtype == np.float32 and found.shape == (2, 3, 3)
    np.testing.assert_array_equal(found, expected())


@pytest.mark.parametrize("number", [int, np.int64, str])
def test_published_dicts_of_class(number, tmp_path):
    np.save(tmp_path / "a.npy", {number(1): FIRST.astype(np.float32), number(11): SECOND})
    np.testing.assert_array_equal(ActivationMaps(tmp_path)(RECORD), expected(1, 11))


def test_published_keys_and_maps(tmp_path):
    maps = np.stack([SECOND, FIRST]).astype(np.float16)
    np.save(tmp_path / "a.npy", {"keys": np.array([4, 3]), "cam": maps[:, :1], "high_res": maps})
    np.testing.assert_array_equal(ActivationMaps(tmp_path)(RECORD), expected(3, 4))


def test_the_houses_own_file_comes_first(tmp_path):
    np.save(tmp_path / "a.npy", {5: FIRST})
    np.savez(tmp_path / "a.npz", **{"0": SECOND})
    np.testing.assert_array_equal(ActivationMaps(tmp_path)(RECORD)[..., 0], SECOND)


@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_an_image_without_any_map(suffix, tmp_path):
    np.savez(tmp_path / "a.npz") if suffix == "npz" else np.save(tmp_path / "a.npy", {})
    found = ActivationMaps(tmp_path)(RECORD)
    assert found.shape == (2, 3, 1) and not found.any()


def test_files_of_another_program(data_dir):
    """Maps of two photos of cats, class 7 of VOC from 0 on."""
    folder = data_dir / "formats/cam_made"
    paths = sorted(folder.glob("*_keys_cam_highres.npy"))
    assert paths
    for path in paths:
        height, width = read_image_size(data_dir / f"voc/JPEGImages/{path.stem[:11]}.jpg")
        record = {"file_name": f"{path.stem}.jpg", "image_id": 1, "height": height, "width": width}
        found = ActivationMaps(folder)(record)
        assert found.shape == (height, width, 8)
        assert not found[..., :7].any() and 0.9 < found[..., 7].max() <= 1


def test_where_they_come_from(tmp_path):
    words = f"class activation maps in {tmp_path}, made by "
    assert ActivationMaps(tmp_path).provenance == words + "something that nothing there names"
    declare_provenance(tmp_path, "hand", what="class activation maps")
    assert ActivationMaps(tmp_path).provenance == words + "hand"


def test_what_is_missing_is_named(tmp_path):
    for root in ("", tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match="INPUT.CAM_ROOT: expected a folder.*make_pseudo_labels"):
            ActivationMaps(root)
    with pytest.raises(
        FileNotFoundError, match=r"a\.npz: expected the class activation maps of photos/a\.jpg .*a\.npy"
    ):
        ActivationMaps(tmp_path)(RECORD)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([FIRST], "found a list"),
        ({"cat": FIRST}, "found 'cat'"),
        ({-1: FIRST}, "found -1"),
        ({253: FIRST}, "found 253"),
        ({10**12: FIRST}, "found 1000000000000"),
        ({0.5: FIRST}, "found 0.5"),
        ({"keys": np.array([1, 2]), "high_res": FIRST[None]}, "found 'keys', 'high_res'"),
        ({"keys": [1], "high_res": FIRST[None]}, "found 'keys', 'high_res'"),
        ({"keys": np.array([1]), "high_res": [FIRST, [1]]}, "found 'keys', 'high_res'"),
        ({"keys": np.array([[1]]), "high_res": FIRST[None]}, "found 'keys', 'high_res'"),
        ({0: FIRST.T}, r"class 0 as real numbers for 3 x 2 pixels; found float64 of shape \(3, 2\)"),
        ({0: FIRST.astype(int)}, "found int64 of shape"),
        ({0: [1, 2]}, "class 0 as real numbers .* found list"),
        ({0: FIRST, 4: FIRST * 2}, "found 0 to 2 for class 4"),
        ({0: FIRST - 0.5}, "found -0.5 to 0.5 for class 0"),
        ({0: FIRST * np.nan}, "found nan to nan for class 0"),
    ],
)
def test_what_is_wrong_is_named(content, reason, tmp_path):
    np.save(tmp_path / "a.npy", np.array(content, dtype=object) if isinstance(content, dict) else _object(content))
    message = refused(reason, ActivationMaps(tmp_path), RECORD)
    assert message.startswith(f"{tmp_path / 'a.npy'}: expected ")


def test_the_highest_class_of_a_label_png(tmp_path):
    np.save(tmp_path / "a.npy", {252: FIRST})
    assert ActivationMaps(tmp_path)(RECORD).shape == (2, 3, 253)


def test_a_file_that_runs_code_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", {0: Bomb(tmp_path / "marker")})
    refused("the object", ActivationMaps(tmp_path), RECORD)
    assert not (tmp_path / "marker").exists()


def _object(content):
    array = np.empty((), dtype=object)
    array[()] = content
    return array
