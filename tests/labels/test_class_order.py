"""Classes with the background first, and label PNGs: hand examples, laws of the tables, VOC's own order."""

import numpy as np
import pytest

from hostile import refused
from weakseg.labels import IGNORED, NO_CLASS, UNLABELLED, ClassOrder
from weakseg.labels.class_order import MAX_CLASSES

WITH = ClassOrder.of(["cat", "dog", "background", "sky"])
WITHOUT = ClassOrder.of(["cat", "dog", "sky"])


def test_the_background_comes_first_and_the_others_keep_their_order():
    assert WITH == ClassOrder(class_index=(2, 0, 1, 3), has_background=True)
    assert WITHOUT == ClassOrder(class_index=(0, 1, 2), has_background=False)
    assert ClassOrder.of(["background"]).class_index == (0,)
    assert ClassOrder.of(["Background", "a background"]) == ClassOrder((0, 1), has_background=False)
    assert ClassOrder.of([]) == ClassOrder((), has_background=False)


def test_there_is_one_background():
    refused('at most one class named "background"; found 2', ClassOrder.of, ["background", "cat", "background"])


def test_label_pngs_by_hand():
    classes = np.array([[0, 1, 2], [3, NO_CLASS, 0]])
    png = WITH.to_png(classes)
    assert png.dtype == np.uint8
    np.testing.assert_array_equal(png, [[1, 2, 0], [3, 254, 1]])
    np.testing.assert_array_equal(WITHOUT.to_png(classes), [[1, 2, 3], [254, 254, 1]])


def test_unlabelled_and_ignored_are_never_confused():
    values = np.arange(256, dtype=np.uint8)
    found = WITH.from_png(values)
    assert found.dtype == np.uint8 and found[IGNORED] == IGNORED == 255
    assert found[:5].tolist() == [0, 1, 2, 3, UNLABELLED] and (found[4:255] == 254).all()
    found = WITHOUT.from_png(values)
    assert found[:5].tolist() == [UNLABELLED, 0, 1, 2, UNLABELLED] and (found[4:255] == 254).all() and found[255] == 255


@pytest.mark.parametrize("order", [WITH, WITHOUT, ClassOrder.of(["x"]), ClassOrder.of([f"{k}" for k in range(253)])])
def test_ways_there_and_back(order):
    count = len(order.class_index)
    classes = np.append(np.arange(count), NO_CLASS)
    ordered = order.from_house(classes)
    assert ordered.dtype == np.uint8 and ordered[-1] == UNLABELLED
    assert sorted(ordered[:-1]) == list(range(count))
    np.testing.assert_array_equal(np.array(order.class_index)[ordered[:-1]], classes[:-1])
    np.testing.assert_array_equal(order.to_house(ordered), classes)
    np.testing.assert_array_equal(order.from_png(order.to_png(classes)), ordered)
    assert order.to_house(np.array([IGNORED, UNLABELLED])).tolist() == [NO_CLASS, NO_CLASS]


def test_a_label_png_keeps_8_bits():
    largest = ClassOrder.of([f"class {k}" for k in range(MAX_CLASSES)])
    assert largest.to_png(np.array([[MAX_CLASSES - 1]])) == MAX_CLASSES == 253
    refused("at most 253 classes.* found 254", ClassOrder.of, [f"class {k}" for k in range(MAX_CLASSES + 1)])
