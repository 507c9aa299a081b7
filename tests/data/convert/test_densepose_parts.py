"""COCO-DensePose's part masks, each pasted into its person's box: which pixel shows what."""

import numpy as np
import pytest
from data.convert.densepose_people import HEAD, V, part_masks, person, quarters, rectangle, runs, unseen

from weakseg.data.convert.densepose import part_instances, semantic_map


def pasted(box, height, width):
    return part_instances([person(1, box, 1, 2, 3, 0)], height, width).tolist()


def test_a_box_of_whole_pixels():
    assert pasted([1, 0, 4, 2], 3, 6) == [[0, 1, 1, 2, 2, 0], [0, 3, 3, 0, 0, 0], [0] * 6]


def test_a_pixel_belongs_to_the_cell_of_its_centre():
    # Centres 1.5, 2.5, 3.5, 4.5 lie in [1.5, 5.5): the left border is inside, the right one (5.5) is not.
    assert pasted([1.5, 0, 4, 2], 2, 7) == [[0, 1, 1, 2, 2, 0, 0], [0, 3, 3, 0, 0, 0, 0]]
    assert pasted([1.75, 0, 4, 2], 2, 7) == [[0, 0, 1, 1, 2, 2, 0], [0, 0, 3, 3, 0, 0, 0]]
    # Rows: 0.5, 1.5 and 2.5 lie in [0.5, 3.1), the middle at 1.8; columns: 1.5 and 2.5 in [0.6, 2.6), middle 1.6.
    assert pasted([0.6, 0.5, 2.0, 2.6], 4, 4) == [[0, 1, 2, 0], [0, 1, 2, 0], [0, 3, 0, 0], [0] * 4]


def test_boxes_over_the_border_of_the_image():
    # Columns 5 to 7 of a box to 8.4 (middle 6.7), row 1 of a box to 3 (middle 2).
    assert pasted([5, 1, 3.4, 2], 2, 8) == [[0] * 8, [0, 0, 0, 0, 0, 1, 1, 2]]
    # From -1 to 1: its left and upper halves lie outside.
    assert pasted([-1, -1, 2, 2], 2, 2) == [[0, 0], [0, 0]]
    assert pasted([-1, 0, 2, 2], 2, 2) == [[2, 0], [0, 0]]


@pytest.mark.parametrize("box", [[1, 1, 0, 2], [1, 1, 2, 0], [1, 1, 0.25, 0.25]])
def test_boxes_without_a_pixel_centre(box):
    assert not np.any(pasted(box, 4, 4))


def test_random_boxes_against_a_loop():
    generator = np.random.default_rng(0)
    for _ in range(5):
        grid = generator.integers(0, 15, (256, 256))
        x, y = generator.uniform(-1, 8, 2)
        width, height = generator.uniform(0.5, 12, 2)
        one = person(1, [x, y, width, height], 0, 0, 0, 0) | {"dp_masks": part_masks(grid)}
        found = part_instances([one], 11, 13)
        for i in range(11):
            for j in range(13):
                across, down = (j + 0.5 - x) / width, (i + 0.5 - y) / height
                inside = 0 <= across < 1 and 0 <= down < 1
                assert found[i, j] == (grid[int(256 * down), int(256 * across)] if inside else 0)


def test_later_people_lie_over_earlier_ones_where_they_have_a_part():
    first, second = person(1, [0, 0, 4, 2], 1, 1, 1, 1), person(2, [2, 0, 4, 2], 14, 2, 0, 2)
    both = part_instances([first, second], 2, 6)
    assert both.dtype == np.int32
    assert both.tolist() == [[1, 1, 28, 28, 16, 16], [1, 1, 1, 1, 16, 16]]
    assert semantic_map(both).tolist() == [[0, 0, 13, 13, 1, 1], [0, 0, 0, 0, 1, 1]]
    assert part_instances([second, first], 2, 6).tolist() == [[15, 15, 15, 15, 2, 2], [15, 15, 15, 15, 2, 2]]


def test_later_parts_lie_over_earlier_ones_of_a_person():
    one = person(1, [0, 0, 2, 2], 1, 1, 1, 1)
    one["dp_masks"][HEAD - 1] = runs(quarters(1, 0, 0, 0))
    assert part_instances([one], 2, 2).tolist() == [[14, 1], [1, 1]]


@pytest.mark.parametrize("change", [{}, {"dp_masks": []}, {"dp_masks": [[]] * 14}, {"dp_masks": None}])
@pytest.mark.parametrize("last", [True, False])
def test_people_without_part_masks_are_void_below_the_parts_of_others(change, last):
    people = [unseen(2, rectangle(1, 0, 5, 1), **change), person(1, [0, 0, 4, 2], 0, 14, 1, 0)]
    classes = [[14, V, 13, 13, V, 14], [0, 0, 14, 14, 14, 14]]
    assert semantic_map(part_instances(people[:: -1 if last else 1], 2, 6)).tolist() == classes
    del people[0]["segmentation"]
    assert semantic_map(part_instances(people, 2, 6)).tolist() == [[14, 14, 13, 13, 14, 14], classes[1]]


def test_crowds_are_void():
    crowd = unseen(2, None) | {"iscrowd": 1, "segmentation": {"size": [2, 3], "counts": [1, 2, 3]}}
    assert semantic_map(part_instances([crowd], 2, 3)).tolist() == [[14, V, 14], [V, 14, 14]]


def test_nobody():
    assert semantic_map(part_instances([], 2, 3)).tolist() == [[14] * 3] * 2
