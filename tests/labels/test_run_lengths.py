"""Run lengths and the id map made of them equal what pycocotools decodes."""

import numpy as np
import pytest
from pycocotools import mask as rle_tools

from weakseg.labels import encode_mask
from weakseg.labels.run_lengths import id_map_of_runs, run_lengths


def masks():
    rng = np.random.default_rng(0)
    yield np.zeros((3, 5), bool)
    yield np.ones((3, 5), bool)
    yield np.array([[True]])
    yield np.eye(40, dtype=bool)
    stripes = np.zeros((700, 900), bool)  # counts of up to four characters, differences of both signs
    stripes[:, [0, 1, 300, 899]] = True
    stripes[5, 400:600] = True
    yield stripes
    for density in (0.02, 0.5, 0.98):
        yield rng.random((57, 83)) < density


def slow_runs(mask):
    """Count off and on in turn, pixel by pixel down the columns."""
    counts, value = [0], False
    for pixel in mask.T.ravel():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


@pytest.mark.parametrize("mask", list(masks()), ids=lambda mask: f"{mask.shape[0]}x{mask.shape[1]}")
def test_compressed_counts_are_read_as_pycocotools_writes_them(mask):
    rle, height, width = encode_mask(mask), *mask.shape
    runs = run_lengths(rle, height, width)
    assert runs.tolist() == slow_runs(mask)
    assert run_lengths({"size": rle["size"], "counts": rle["counts"].encode()}, height, width).tolist() == runs.tolist()
    assert run_lengths({"size": rle["size"], "counts": runs.tolist()}, height, width).tolist() == runs.tolist()
    np.testing.assert_array_equal(id_map_of_runs([runs], height, width), mask.astype(int))


def test_polygons_are_filled_as_pycocotools_does():
    polygons = [[1.0, 1.0, 9.0, 2.0, 5.0, 7.5], [10.0, 3.0, 14.0, 3.0, 14.0, 8.0, 10.0, 8.0]]
    expected = rle_tools.decode(rle_tools.frPyObjects(polygons, 10, 16)).any(axis=2)
    np.testing.assert_array_equal(id_map_of_runs([run_lengths(polygons, 10, 16)], 10, 16), expected.astype(int))


def test_ids_follow_the_order_of_the_masks_and_add_where_they_overlap():
    id_map = np.array([[1, 1, 2, 2], [1, 0, 2, 2], [3, 3, 0, 2]])
    runs = [run_lengths(encode_mask(id_map == k), 3, 4) for k in (1, 2, 3)]
    result = id_map_of_runs(runs, 3, 4)
    np.testing.assert_array_equal(result, id_map)
    assert result.dtype == np.int32 and result.flags.c_contiguous
    everywhere = run_lengths(encode_mask(np.ones((3, 4), bool)), 3, 4)
    np.testing.assert_array_equal(id_map_of_runs([runs[0], everywhere], 3, 4), 2 + (id_map == 1))
    np.testing.assert_array_equal(id_map_of_runs([], 3, 4), 0)


def test_empty_runs_inside_move_nothing():
    np.testing.assert_array_equal(id_map_of_runs([np.array([1, 1, 0, 1, 3])], 2, 3), [[0, 1, 0], [1, 0, 0]])


def test_damaged_run_lengths_are_refused():
    rle = encode_mask(np.eye(40, dtype=bool))
    with pytest.raises(ValueError, match="40 x 41 pixels; found 1600"):
        run_lengths(rle, 41, 40)
    with pytest.raises(ValueError, match="expected run lengths"):
        run_lengths({"size": [2, 2], "counts": [5, -1]}, 2, 2)
    with pytest.raises(ValueError, match="incomplete"):
        run_lengths({"size": [2, 2], "counts": "o"}, 2, 2)
    with pytest.raises(ValueError, match="incomplete"):
        run_lengths({"size": [2, 2], "counts": ""}, 2, 2)
