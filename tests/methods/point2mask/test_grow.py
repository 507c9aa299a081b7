"""Points to masks without training: laws, and pictures so plain that the masks are known."""

import numpy as np
import pytest

from weakseg.labels import LabelFile, decode_segmentation
from weakseg.methods.point2mask import grow
from weakseg.methods.point2mask.graph import edge_costs
from weakseg.methods.point2mask.grow import BORDER_PRICE, grow_annotations, grow_masks

RED, BLUE, GREEN = (200, 30, 30), (30, 30, 200), (30, 160, 30)


def things(count):
    return np.zeros(count, dtype=bool)


def halves(height, width, border):
    image = np.empty((height, width, 3), dtype=np.uint8)
    image[:, :border], image[:, border:] = RED, BLUE
    return image


def blobs(height=60, width=83, seed=0):
    """A smooth random image: no two distances are equal."""
    generator = np.random.default_rng(seed)
    coarse = generator.uniform(0, 255, (height // 8 + 1, width // 8 + 1, 3))
    return np.kron(coarse, np.ones((8, 8, 1)))[:height, :width].astype(np.uint8)


POINTS = np.array([[10.5, 12.5], [70.2, 8.7], [40.1, 50.3], [75.5, 51.5]])


@pytest.mark.parametrize(("height", "width", "border"), [(48, 64, 32), (48, 64, 21), (150, 301, 160), (40, 333, 201)])
@pytest.mark.parametrize("with_edges", [False, True])
def test_flat_halves_are_split_at_the_border(height, width, border, with_edges):
    """The left point is the far one; in the larger images the border runs through a cell."""
    image = halves(height, width, border)
    edges = None
    if with_edges:
        edges = np.zeros((height, width), dtype=np.float32)
        edges[:, border - 1 : border + 1] = 1
    points = np.array([[2.5, 3.5], [border + 2.5, height - 4.5]])
    owner = grow_masks(image, points, np.arange(2), things(2), edges=edges)
    expected = np.where(np.arange(width) < border, 0, 1)
    np.testing.assert_array_equal(owner, np.broadcast_to(expected, (height, width)))


def test_an_edge_map_alone_splits_a_flat_image():
    image = np.full((40, 60, 3), 128, dtype=np.uint8)
    edges = np.zeros((40, 60), dtype=np.float32)
    edges[:, 45] = 1
    points = np.array([[3.5, 20.5], [57.5, 20.5]])
    owner = grow_masks(image, points, np.arange(2), things(2), edges=edges)
    assert (owner[:, :44] == 0).all() and (owner[:, 47:] == 1).all()
    without = grow_masks(image, points, np.arange(2), things(2))
    assert (without[:, :30] == 0).all() and (without[:, 31:] == 1).all()


@pytest.mark.parametrize("cells", [30, 47, None])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_flip_of_image_and_points_flips_the_masks(cells, axis):
    image, is_stuff = blobs(), np.array([False, False, False, True])
    edges = np.random.default_rng(1).uniform(0, 1, image.shape[:2]) ** 4
    owner = grow_masks(image, POINTS, np.arange(4), is_stuff, edges=edges, cells=cells)
    flipped = POINTS.copy()
    flipped[:, 1 - axis] = image.shape[axis] - flipped[:, 1 - axis]
    other = grow_masks(
        np.flip(image, axis).copy(), flipped, np.arange(4), is_stuff, edges=np.flip(edges, axis).copy(), cells=cells
    )
    assert len(np.unique(owner)) == 4
    np.testing.assert_array_equal(np.flip(other, axis), owner)


def test_a_permutation_of_the_targets_permutes_the_owners():
    is_stuff = np.array([False, True, False, True])
    owner = grow_masks(blobs(), POINTS, np.arange(4), is_stuff)
    new_name = np.array([2, 0, 3, 1])
    renamed_stuff = np.empty(4, dtype=bool)
    renamed_stuff[new_name] = is_stuff
    np.testing.assert_array_equal(grow_masks(blobs(), POINTS, new_name, renamed_stuff), new_name[owner])
    order = [3, 1, 0, 2]
    np.testing.assert_array_equal(grow_masks(blobs(), POINTS[order], np.arange(4)[order], is_stuff), owner)


@pytest.mark.parametrize("seed", range(4))
def test_every_point_lies_in_its_own_mask(seed):
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, (61, 90, 3), dtype=np.uint8)
    pixels = generator.choice(61 * 90, size=12, replace=False)
    points = np.stack([pixels % 90, pixels // 90], axis=1) + generator.uniform(0, 0.999, (12, 2))
    points[0] = (0.0, 30.0)  # a thing on the border of the image, where stuff has a source
    points[1] = points[2] + 0  # in the same cell, and the same pixel, as another target: the first one gets it
    owner = grow_masks(image, points, np.arange(12), np.arange(12) > 8, cells=20)
    at = owner[points[:, 1].astype(int), points[:, 0].astype(int)]
    np.testing.assert_array_equal(at, [0, 1, 1, *range(3, 12)])


@pytest.mark.parametrize("is_stuff", [False, True])
def test_one_target_gets_everything(is_stuff):
    owner = grow_masks(blobs(), POINTS[:1], np.array([0]), np.array([is_stuff]))
    assert owner.shape == (60, 83) and owner.dtype == np.int32 and (owner == 0).all()


def test_a_target_without_a_point_gets_nothing():
    owner = grow_masks(blobs(), POINTS[:2], np.array([3, 1]), things(5))
    assert set(np.unique(owner)) == {1, 3}
    nobody = np.zeros((0, 2))
    assert (grow_masks(blobs(), nobody, np.zeros(0, dtype=int), things(0)) == -1).all()
    assert (grow_masks(blobs(), nobody, np.zeros(0, dtype=int), things(2)) == -1).all()
    assert (grow_masks(blobs(), POINTS[:1], np.array([0]), things(1), positive=np.array([False])) == -1).all()


def test_one_pixel():
    image = np.zeros((1, 1, 3), dtype=np.uint8)
    assert grow_masks(image, np.array([[0.5, 0.5]]), np.array([0]), things(1)).tolist() == [[0]]
    assert grow_masks(image, np.full((2, 2), 0.5), np.arange(2), np.array([False, True])).tolist() == [[0]]


def test_several_points_of_one_target():
    """A blue bar parts the red: with a point on either side of it the target has both."""
    image = halves(30, 60, 60)
    image[:, 25:35] = BLUE
    points = np.array([[5.5, 15.5], [50.5, 15.5], [30.5, 15.5]])
    owner = grow_masks(image, points, np.array([0, 0, 1]), things(2))
    np.testing.assert_array_equal(owner, np.where(np.all(image == BLUE, axis=2), 1, 0))


def test_the_border_of_the_image_is_stuff():
    """Red on both sides of a green bar that cuts the image; the stuff point lies left, the thing's on the bar."""
    image = halves(40, 90, 90)
    image[:, 40:50] = GREEN
    points, is_stuff = np.array([[45.5, 20.5], [10.5, 20.5]]), np.array([False, True])
    owner = grow_masks(image, points, np.arange(2), is_stuff, border=False)
    assert (owner[:, 50:] == 0).all()
    owner = grow_masks(image, points, np.arange(2), is_stuff)
    assert (owner[:, 50:] == 1).all() and (owner[:, :40] == 1).all()
    # The bar meets the border too, but is joined to its point without a change of colour: the price decides.
    assert (owner[:, 41:49] == 0).all() and 0.01 < BORDER_PRICE < 0.5
    both_things = grow_masks(image, points, np.arange(2), things(2))
    assert (both_things[:, 50:] == 0).all()


def test_the_border_goes_to_the_stuff_nearest_to_it():
    """Sky above ground, and at the lower right a thing before a green island that no point names. Without the border
    the thing has the island; with it the ground has: from red by the thing to green the colours change less (in Lab,
    cubed and summed 5.5) than from blue (5.7)."""
    image = np.empty((60, 60, 3), dtype=np.uint8)
    image[:30], image[30:] = BLUE, RED
    image[30:, 30:40], image[30:, 40:] = (30, 95, 115), GREEN
    points, is_stuff = np.array([[35.5, 45.5], [5.5, 5.5], [5.5, 45.5]]), np.array([False, True, True])
    owner = grow_masks(image, points, np.arange(3), is_stuff, border=False)
    assert (owner[32:, 42:] == 0).all()
    owner = grow_masks(image, points, np.arange(3), is_stuff)
    assert (owner[32:, 42:] == 2).all()
    assert (owner[:28] == 1).all() and (owner[32:, :28] == 2).all() and (owner[32:58, 32:38] == 0).all()


def test_a_transposed_image_gives_transposed_masks():
    image, is_stuff = blobs(), np.array([False, False, False, True])
    owner = grow_masks(image, POINTS, np.arange(4), is_stuff, cells=30)
    other = grow_masks(image.transpose(1, 0, 2).copy(), POINTS[:, ::-1], np.arange(4), is_stuff, cells=30)
    np.testing.assert_array_equal(other.T, owner)


def test_a_negative_point_takes_what_is_nearer_to_it():
    image = halves(40, 80, 50)
    points, target = np.array([[10.5, 20.5], [70.5, 20.5]]), np.array([0, 0])
    positive = np.array([True, False])
    owner = grow_masks(image, points, target, things(1), positive=positive)
    np.testing.assert_array_equal(owner, np.broadcast_to(np.where(np.arange(80) < 50, 0, -1), (40, 80)))
    # Another target takes what the first one must not have, though it is farther than both.
    three = np.array([[10.5, 20.5], [70.5, 20.5], [2.5, 2.5]])
    owner = grow_masks(image, three, np.array([0, 0, 1]), things(2), positive=np.array([True, False, True]))
    assert (owner[:, 50:] == 1).all() and owner[20, 10] == 0


def test_large_images_have_no_more_cells_than_asked_for(monkeypatch):
    grids = []

    def recorded(color, *arguments, **options):
        grids.append(tuple(color.shape[2:]))
        return edge_costs(color, *arguments, **options)

    monkeypatch.setattr(grow, "edge_costs", recorded)
    image = np.zeros((200, 400, 3), dtype=np.uint8)
    point, target = np.array([[3.5, 3.5]]), np.array([0])
    grow_masks(image, point, target, things(1))
    grow_masks(image, point, target, things(1), edges=np.zeros((200, 400)))
    grow_masks(image, point, target, things(1), cells=40)
    grow_masks(image[:3, :50], point - 2, target, things(1))
    assert grids == [(50, 100), (100, 200), (20, 40), (3, 50)]


def test_annotations_get_the_masks_of_what_they_own():
    image = halves(40, 80, 50)
    labels = LabelFile([{"id": 7, "name": "wall", "isthing": 0}, {"id": 9, "name": "ball", "isthing": 1}], [], {})
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 7, "point_coords": [[3.5, 3.5]], "area": 5},
        {"id": 2, "image_id": 1, "category_id": 9, "point_coords": [[70.5, 20.5], [3.0, 9.0]], "point_labels": [1, 0]},
        {"id": 3, "image_id": 1, "category_id": 9, "bbox": [0, 0, 5, 5]},
    ]
    given = [dict(annotation) for annotation in annotations]
    owner, grown = grow_annotations(image, annotations, labels, border=False)
    assert annotations == given
    np.testing.assert_array_equal(owner, np.broadcast_to(np.where(np.arange(80) < 50, 0, 1), (40, 80)))
    np.testing.assert_array_equal(decode_segmentation(grown[1]["segmentation"], 40, 80), owner == 1)
    assert grown[0]["bbox"] == [0, 0, 50, 40] and grown[0]["area"] == 2000
    assert grown[1]["bbox"] == [50, 0, 30, 40] and grown[1]["area"] == 1200
    assert grown[1]["point_labels"] == [1, 0] and grown[2] == {"id": 3, "image_id": 1, "category_id": 9}
