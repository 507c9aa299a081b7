"""Pictures say what they were given."""

import numpy as np
import pytest

from weakseg.visualize import (
    VOID_COLOR,
    draw_points,
    legend,
    paint_classes,
    paint_embeddings,
    paint_labels,
    paint_panoptic,
    paint_segments,
    sheet,
    stack,
)

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


def test_names_of_classes_are_written_once_each_and_none_has_no_name():
    image = np.zeros((40, 300, 3), np.uint8)
    class_map = np.repeat([[0, 255, 2]], 40, axis=0).repeat(100, axis=1)
    plain = paint_classes(image, class_map, COLORS)
    changed = (paint_classes(image, class_map, COLORS, ["cat", "dog", "sky"]) != plain).any(2)
    assert changed[:, :100].sum() > 20 and changed[:, 200:].sum() > 20
    assert not changed[:, 100:200].any()


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


def test_a_labelled_pixel_is_a_rimmed_dot_and_the_image_shows_where_nothing_is_labelled():
    image = np.full((40, 60, 3), 100, np.uint8)
    label_map = np.full((40, 60), 254, np.uint8)
    label_map[20, 30] = 1
    picture = paint_labels(image, label_map, COLORS)
    green, white, grey = (0, 200, 0), (255, 255, 255), (100, 100, 100)
    assert [tuple(pixel) for pixel in picture[20, 30:37]] == [green] * 3 + [white] * 2 + [grey] * 2
    assert [tuple(pixel) for pixel in picture[20:13:-1, 30]] == [green] * 3 + [white] * 2 + [grey] * 2
    assert (image == 100).all()


def test_labels_are_never_painted_over_others_nor_over_ignored_pixels():
    label_map = np.full((40, 60), 254, np.uint8)
    label_map[:, :20], label_map[:, 20:22], label_map[:, 40:] = 0, 2, 255
    label_map[0, 39] = 1
    picture = paint_labels(np.zeros((40, 60, 3), np.uint8), label_map, COLORS)
    assert (picture[:, :20] == COLORS[0]).all() and (picture[:, 20:24] == COLORS[2]).all()
    assert (picture[:, 40:] == VOID_COLOR).all() and (picture[20, 26:40] == 0).all()
    assert tuple(picture[0, 37]) == COLORS[1]


@pytest.mark.parametrize(("size", "radius"), [((480, 600), 4), ((600, 480), 4), ((1, 1), 2)])
def test_dots_grow_with_the_image(size, radius):
    label_map = np.full(size, 254, np.uint8)
    label_map[0, 0] = 2
    picture = paint_labels(np.zeros((*size, 3), np.uint8), label_map, COLORS)
    assert (picture[0, : radius + 1] == COLORS[2]).all()
    assert (picture[0, radius + 1 : radius + 3] == 255).all() and (picture[0, radius + 3 :] == 0).all()


def test_an_image_without_labels_stays_as_it_is():
    image = np.full((5, 6, 3), 7, np.uint8)
    assert (paint_labels(image, np.full((5, 6), 254, np.uint8), COLORS) == image).all()


def test_segments_have_their_mean_colour_and_an_outline():
    image = np.zeros((4, 6, 3), np.uint8)
    image[:, :3], image[:, 3:] = (10, 20, 30), (50, 60, 70)
    image[0, 0], image[0, 5] = (22, 44, 30), (50, 60, 94)
    segments = np.repeat([[9, 9, 9, 4000, 4000, 4000]], 4, axis=0)
    picture = paint_segments(image, segments)
    assert (picture[:, :3] == (11, 22, 30)).all() and (picture[:, 4:] == (50, 60, 72)).all()
    assert (picture[:, 3] == 255).all()


def test_bright_segments_are_outlined_in_black():
    image = np.zeros((1, 4, 3), np.uint8)
    image[0, 2:] = (161, 160, 160)
    segments = np.array([[0, 0, 1, 1]])
    assert (paint_segments(image, segments)[0, 2] == 0).all()
    image[0, 2:] = (160, 160, 160)
    assert (paint_segments(image, segments)[0, 2] == 255).all()


def test_one_segment_has_no_outline():
    assert (paint_segments(np.full((3, 2, 3), 8, np.uint8), np.zeros((3, 2), np.int64)) == 8).all()


def test_colours_of_an_embedding_are_components_by_their_variance():
    channels = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(2, 4, 3)
    vectors = channels * [1.0, 3.0, 2.0] + [5.0, 6.0, 7.0]
    (picture,) = paint_embeddings([vectors.astype(np.float32)])
    assert picture.dtype == np.uint8
    assert (picture == 255 * channels[:, :, [1, 2, 0]]).all()


def test_colours_are_the_same_for_all_images_and_reach_from_percentile_to_percentile():
    values = np.arange(101.0)
    first, second = (np.stack([0 * part, -part, 0 * part, 0 * part], -1) for part in np.split(values, [40]))
    expected = np.rint(255 * np.clip((99 - values) / 98, 0, 1))
    pictures = paint_embeddings([first.reshape(5, 8, 4), second.reshape(61, 1, 4)])
    assert [picture.shape for picture in pictures] == [(5, 8, 3), (61, 1, 3)]
    found = np.concatenate([picture.reshape(-1, 3) for picture in pictures])
    assert (found[:, 0] == expected).all() and (found[:, 1:] == 128).all()


def test_colours_turn_with_the_axes_of_the_embedding():
    """Three factors, first along the channels, then in a plane that no channel spans; 0.6, 0.8 is a unit vector."""
    factors = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1], indexing="ij"), -1).reshape(4, 2, 3) * [4.0, 2.0, 1.0]
    turned = factors @ np.array([[0.6, 0.8, 0.0, 0.0], [-0.8, 0.6, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    signs = np.array([1, -1, 1])
    assert (paint_embeddings([turned])[0] == np.where(factors * signs > 0, 255, 0)).all()


@pytest.mark.parametrize("shape", [(1, 1, 5), (3, 2, 1), (3, 2, 64)])
def test_an_embedding_of_one_vector_is_grey(shape):
    (picture,) = paint_embeddings([np.full(shape, 0.123, np.float32)])
    assert picture.shape == (*shape[:2], 3) and (picture == 128).all()


def test_an_embedding_of_two_channels_has_two_colours():
    (picture,) = paint_embeddings([np.array([[[0, 0], [0, 1], [3, 0], [3, 1]]], np.float32)])
    assert picture[0].tolist() == [[0, 0, 128], [0, 255, 128], [255, 0, 128], [255, 255, 128]]


def test_a_legend_has_a_patch_before_each_name():
    picture = legend(["cat", "dog", "sky"], COLORS, 400)
    assert picture.shape == (24, 400, 3)
    lefts = []
    for color in COLORS:
        rows, columns = np.nonzero((picture == color).all(2))
        assert len(rows) == 14 * 14 and rows.min() == 5 and np.ptp(columns) == 13
        lefts.append(columns.min())
    assert lefts == sorted(lefts) and lefts[0] == 8
    between = picture[:, lefts[0] + 14 : lefts[1]]
    assert (between == between[..., :1]).all() and between.min() < 100
    assert (between[:, :6] == 255).all() and (between[:, -6:] == 255).all()


def test_a_legend_is_broken_into_lines_and_never_lost():
    picture = legend(["cat", "dog", "sky"], COLORS, 100)
    assert picture.shape == (72, 100, 3)
    for line, color in enumerate(COLORS):
        rows, columns = np.nonzero((picture == color).all(2))
        assert rows.min() == 24 * line + 5 and columns.min() == 8
    assert legend(["a very long name"], COLORS, 20).shape == (24, 20, 3)
    assert legend([], [], 50).shape == (0, 50, 3)


def test_a_stack_is_as_wide_as_the_widest():
    picture = stack([np.full((2, 3, 3), 1, np.uint8), np.full((1, 5, 3), 2, np.uint8)])
    assert picture[..., 0].tolist() == [[1, 1, 1, 255, 255]] * 2 + [[2] * 5]
    assert picture.shape == (3, 5, 3)
