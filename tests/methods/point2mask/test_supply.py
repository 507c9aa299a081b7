"""Supply, demand and centres by hand."""

import pytest
import torch

from weakseg.methods.point2mask.graph import cells_of, centre_distance
from weakseg.methods.point2mask.supply import (
    batch_points,
    centre_cells,
    farthest_distance,
    grown_masks,
    mask_supply,
    nearest_supply,
    profiles,
    slots_taking_part,
)


def filled(size, *boxes):
    """Owner map (H, W): instance k owns rows y0..y1-1, columns x0..x1-1 of boxes[k] = (y0, x0, y1, x1); else nobody."""
    owner = torch.full(size, -1)
    for k, (y0, x0, y1, x1) in enumerate(boxes):
        owner[y0:y1, x0:x1] = k
    return owner


def test_points_of_a_batch_know_their_image():
    rows = [torch.tensor([[0, 5, 6], [1, 7, 8]]), torch.zeros(0, 3, dtype=torch.int64), torch.tensor([[0, 9, 1]])]
    assert batch_points(rows).tolist() == [[0, 0, 5, 6], [0, 1, 7, 8], [2, 0, 9, 1]]


def test_who_takes_part():
    classes = [torch.zeros(n, dtype=torch.int64) for n in (3, 0, 2, 1)]
    points = torch.tensor([[0, 0, 5, 5], [0, 2, 9, 9], [0, 2, 1, 1], [3, 0, 4, 4]])
    assert slots_taking_part(points, classes, keep_absent=False).int().T.tolist() == [
        [1, 0, 1],
        [0, 0, 0],
        [0, 0, 0],
        [1, 0, 0],
    ]
    # Published: all instances of an image in which any has a point.
    kept = slots_taking_part(points, classes, keep_absent=True).int().T.tolist()
    assert kept == [[1, 1, 1], [0, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_nearest_supply_counts_argmin_cells_and_all_pixels_of_the_images_demand():
    first = torch.tensor([[0.0, 1.0, 5.0], [2.0, 1.0, 4.0], [9.0, 9.0, 9.0]])
    second = torch.tensor([[0.0, 0.0, 0.0], [3.0, 3.0, 1.0], [2.0, 4.0, 0.0]])
    cost = torch.stack([first, second], dim=1).unsqueeze(2)  # (m, B, 1, 3)
    taking_part = torch.tensor([[True, False], [True, True], [True, True]])
    inside = torch.tensor([[[True, True, True]], [[True, True, False]]])
    supply, demand = nearest_supply(cost, taking_part, inside)
    assert supply.T.tolist() == [[2, 1, 0], [0, 1, 1]]  # the tie goes to the first; slot 0 of image 1 is empty
    assert demand.tolist() == [[[1.0, 1.0, 1.0]], [[1.0, 1.0, 0.0]]]


def test_mask_supply_counts_areas_and_only_masks_demand():
    supply, demand = mask_supply(torch.tensor([[[0, 0, -1], [2, -1, -1]], [[1, -1, -1], [1, 1, 3]]]), 4)
    assert supply.T.tolist() == [[2, 0, 1, 0], [0, 3, 0, 1]]
    assert demand[0].tolist() == [[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    assert demand[1].tolist() == [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]


def test_grown_masks_weigh_nearness_with_likelihood():
    distance = torch.tensor([[0.0, 0.5, 0.5, 0.2], [1.0, 0.5, 0.25, 0.1]]).view(2, 1, 1, 4)
    # Instance 0 is as likely as classes 0 and 2 together, instance 1 as classes 1 and 2.
    probabilities = torch.tensor([[0.0, 0.4, 0.8, 0.7], [0.8, 0.4, 0.4, 0.7], [0.1] * 4]).view(3, 1, 1, 4)
    counts = torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]])
    is_stuff = torch.tensor([[[False, False, False, True]]])
    everybody = torch.ones(2, 1, dtype=torch.bool)

    def grow(distance, is_stuff, farthest=1.0, taking_part=everybody):
        return grown_masks(distance, torch.tensor([farthest]), probabilities, counts, taking_part, is_stuff).tolist()

    assert grow(distance, is_stuff) == [[[0, 0, 0, -1]]]
    assert grow(distance.flip(0), ~is_stuff) == [[[-1, -1, -1, 0]]]
    assert grow(distance * 4, is_stuff, farthest=4.0) == [[[0, 0, 0, -1]]]
    assert grow(distance * 4, is_stuff) == [[[0, 0, 1, -1]]]
    # Also where the only instance is as unlikely as can be, it beats a slot that holds none.
    assert grow(distance, is_stuff, taking_part=torch.tensor([[False], [True]])) == [[[1, 1, 1, -1]]]


def test_grown_masks_do_not_mix_images():
    generator = torch.Generator().manual_seed(0)
    distance, farthest = torch.rand(4, 3, 6, 7, generator=generator), torch.tensor([1.0, 2.0, 3.0])
    probabilities = torch.rand(2, 3, 6, 7, generator=generator)
    counts = torch.randint(0, 2, (3, 4, 2), generator=generator).float()
    taking_part, is_stuff = torch.ones(4, 3, dtype=torch.bool), torch.rand(3, 6, 7, generator=generator) < 0.2
    owner = grown_masks(distance, farthest, probabilities, counts, taking_part, is_stuff)
    for b in range(3):
        likelihood = torch.einsum("mk,khw->mhw", counts[b], probabilities[:, b])
        expected = ((1 - distance[:, b] / farthest[b]) * likelihood).argmax(dim=0).masked_fill(is_stuff[b], -1)
        assert torch.equal(owner[b], expected)


def test_farthest_distance_is_that_of_an_instance_in_the_image():
    distance = torch.arange(24.0).view(2, 2, 2, 3)  # the last of slot 1: 17 in image 0, 23 in image 1
    everybody = torch.ones(2, 2, dtype=torch.bool)
    assert farthest_distance(distance, everybody, [(2, 3), (1, 2)]).tolist() == pytest.approx([17.0, 19.0], abs=1e-4)
    only_first = torch.tensor([[True, True], [False, True]])
    assert farthest_distance(distance, only_first, [(2, 3), (2, 3)]).tolist() == pytest.approx([5.0, 23.0], abs=1e-4)
    nobody = farthest_distance(distance, ~everybody, [(2, 3), (2, 3)])
    assert nobody.tolist() == pytest.approx([1e-5, 1e-5])


def test_profiles_count_pixels_per_row_and_column():
    rows, columns = profiles(torch.tensor([[[0, 0, -1], [2, 0, -1]], [[1, 1, 1], [-1, 2, 1]]]), 3)
    assert rows.tolist() == [[[2, 1], [0, 0], [0, 1]], [[0, 0], [3, 1], [0, 1]]]
    assert columns.tolist() == [[[1, 2, 0], [0, 0, 0], [1, 0, 0]], [[0, 0, 0], [1, 1, 2], [0, 1, 0]]]


def test_cells_end_at_the_grid():
    pixels = torch.tensor([[0, 0], [7, 8], [31, 16], [33, 39]])
    assert cells_of(pixels, (4, 4), 8).tolist() == [[0, 0], [0, 1], [3, 2], [3, 3]]


def centres(owner, points, instances=1, *, stride=8, official=False):
    """Of one image (H, W) that is the second of a batch whose first has the same points and is all of instance 0."""
    grid = (owner.shape[0] // stride, owner.shape[1] // stride)
    batch = torch.stack([torch.zeros_like(owner), owner])
    rows = torch.tensor([[image, *point] for point in points for image in (1, 0)])
    return centre_cells(batch, rows, instances, grid, stride=stride, official=official)[1].tolist()


@pytest.mark.parametrize("official", [False, True])
def test_centroid_of_a_mask_with_its_point(official):
    owner = filled((32, 40), (0, 0, 20, 24), (16, 24, 32, 40))
    # rows 0..19: mean 9.5, cell 1; columns 0..23: mean 11.5, cell 1. Rows 16..31: mean 23.5; columns 24..39: mean 31.5.
    assert centres(owner, [[0, 1, 1], [1, 31, 39]], 2, official=official) == [[1, 1], [2, 3]]


@pytest.mark.parametrize("official", [False, True])
def test_point_takes_over_where_the_mask_misses_its_centroid(official):
    owner = filled((32, 32), (0, 0, 32, 32))
    owner[8:24, 8:24] = -1  # a ring
    assert centres(owner, [[0, 1, 2]], official=official) == [[0, 0]]


@pytest.mark.parametrize("official", [False, True])
def test_point_takes_over_where_the_mask_is_empty_or_misses_the_point(official):
    owner = filled((32, 32), (0, 0, 0, 0), (0, 0, 16, 32))
    # Instance 1 has its centroid at (7, 15), in its mask; its point, and the corner of the point's cell, are outside.
    assert centres(owner, [[0, 30, 20], [0, 31, 1], [1, 20, 9]], 2, official=official) == [[3, 2], [2, 1]]


def test_nearest_point_takes_over_not_the_first():
    owner = filled((32, 64), (0, 0, 8, 64))
    owner[0:8, 24:40] = -1  # two bars: the centroid (3, 31) lies between them
    points = [[0, 0, 0], [0, 7, 41], [0, 30, 31]]
    assert centres(owner, points) == [[0, 5]]
    assert centres(owner, points, official=True) == [[0, 0]]


def test_any_labelled_pixel_vouches_for_the_centroid():
    owner = filled((32, 32), (16, 16, 32, 32))
    points = [[0, 2, 2], [0, 20, 20]]  # the first one is outside
    assert centres(owner, points) == [[2, 2]]
    assert centres(owner, points, official=True) == [[0, 0]]


def test_labelled_pixel_in_the_mask_of_another_does_not_vouch():
    owner = filled((32, 32), (16, 16, 32, 32), (0, 0, 8, 8))
    assert centres(owner, [[0, 2, 2], [1, 1, 1]], 2) == [[0, 0], [0, 0]]


def test_labelled_pixel_vouches_not_the_corner_of_its_cell():
    owner = filled((32, 32), (4, 4, 26, 26))  # centroid (14, 14)
    assert centres(owner, [[0, 6, 7]]) == [[1, 1]]
    assert centres(owner, [[0, 6, 7]], official=True) == [[0, 0]]  # the corner (0, 0) is outside
    owner = filled((32, 32), (0, 0, 6, 30))  # the corner (0, 16) is inside, the pixel (7, 16) is not
    assert centres(owner, [[0, 7, 16]]) == [[0, 2]]
    assert centres(owner, [[0, 7, 16]], official=True) == [[0, 1]]


def test_centroid_in_the_last_strip_stays_in_the_grid():
    owner = filled((39, 37), (32, 32, 39, 37))  # a grid of 4 x 4 cells of 8; the centroid is (35, 34)
    owner[24:32, 24:32] = 0  # holds the corner of the last cell; now the centroid is (29, 29) / 8 = 3
    assert centres(owner, [[0, 36, 36]], official=True) == [[3, 3]]
    owner[24:32, 24:32] = -1
    owner[24, 24] = 0
    assert centres(owner, [[0, 36, 36]], official=True) == [[4, 4]]
    assert centres(owner, [[0, 36, 36]]) == [[3, 3]]


def test_distance_of_a_centre_off_the_grid_is_the_largest_number():
    graph = torch.ones(2, 2, 3, 8) * torch.tensor([1.0, 5.0]).view(2, 1, 1, 1)
    distance = centre_distance(graph, torch.tensor([[[0, 0], [2, 1], [1, 3]], [[1, 2], [1, 1], [2, 2]]]))
    assert distance[0].tolist() == [[[0, 1, 2], [1, 1, 2]], [[10, 5, 5], [10, 5, 0]]]
    assert distance[1, 1].tolist() == [[5, 5, 5], [5, 0, 5]]
    assert bool((torch.stack([distance[1, 0], *distance[2]]) == torch.finfo(torch.float32).max).all())
