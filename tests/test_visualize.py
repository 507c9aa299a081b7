"""Pictures say what they were given."""

import numpy as np

from weakseg.visualize import VOID_COLOR, draw_points, paint_classes, paint_panoptic, sheet

COLORS = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]


def test_segments_are_painted_in_their_class_colour_and_outlined():
    ids = np.zeros((20, 30), np.int32)
    ids[5:15, 5:12], ids[5:15, 12:25] = 1, 2
    segments = [{"id": 1, "category_id": 1, "isthing": True}, {"id": 2, "category_id": 2, "isthing": False}]
    picture = paint_panoptic(np.zeros((20, 30, 3), np.uint8), ids, segments, COLORS, alpha=1.0)
    assert tuple(picture[10, 8]) == (0, 200, 0) and tuple(picture[10, 20]) == (0, 0, 200)
    assert tuple(picture[1, 1]) == VOID_COLOR
    assert tuple(picture[10, 12]) == tuple(picture[5, 8]) == (255, 255, 255)
    assert tuple(picture[10, 11]) != (255, 255, 255)


def test_two_things_of_a_class_differ_and_the_image_shows_through():
    ids = np.repeat([[1, 2]], 4, axis=0).repeat(6, axis=1)
    segments = [{"id": 1, "category_id": 0, "isthing": True}, {"id": 2, "category_id": 0, "isthing": True}]
    image = np.full((4, 12, 3), 100, np.uint8)
    picture = paint_panoptic(image, ids, segments, COLORS, alpha=0.5)
    assert tuple(picture[2, 1]) == (150, 50, 50) and tuple(picture[2, 10]) == (130, 50, 50)


def test_names_are_written_only_when_given():
    ids = np.ones((60, 120), np.int32)
    segments = [{"id": 1, "category_id": 0, "isthing": True, "score": 0.5}]
    image = np.zeros((60, 120, 3), np.uint8)
    plain = paint_panoptic(image, ids, segments, COLORS)
    named = paint_panoptic(image, ids, segments, COLORS, ["cat", "dog", "sky"])
    assert len(np.unique(plain.reshape(-1, 3), axis=0)) == 1
    changed = (plain != named).any(2)
    assert 20 < changed.sum() < changed.size / 2


def test_class_maps_have_a_colour_for_none():
    picture = paint_classes(np.zeros((1, 3, 3), np.uint8), np.array([[0, 2, 255]]), COLORS, alpha=1.0)
    assert picture[0].tolist() == [[200, 0, 0], [0, 0, 200], list(VOID_COLOR)]


def test_a_point_is_a_dot_at_x_y_in_its_colour():
    image = np.zeros((40, 60, 3), np.uint8)
    picture = draw_points(image, np.array([[45.5, 10.5]]), np.array([1]), COLORS)
    assert tuple(picture[10, 45]) == (0, 200, 0)
    assert image.sum() == 0 and picture[30:].sum() == 0 and picture[:, :30].sum() == 0


def test_a_sheet_is_a_row_of_titled_panels_of_one_height():
    panels = [("one", np.zeros((10, 20, 3), np.uint8)), ("two", np.full((40, 20, 3), 9, np.uint8))]
    picture = sheet(panels, height=20)
    assert picture.shape == (44, (40 + 4) + (10 + 4), 3)
    assert (picture[30, 10] == 0).all() and (picture[30, 48] == 9).all()
    assert (picture[:24, :40].min()) < 128
