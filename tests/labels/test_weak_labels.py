"""`WeakLabels`: empty by default, and moved as a whole."""

import torch

from weakseg.labels import LabelKind, WeakLabels


def test_an_image_without_labels():
    weak = WeakLabels((4, 6))
    assert (
        len(weak) == 0 and weak.masks is None and weak.tags is None and weak.scribbles == [] and weak.expressions == []
    )
    assert weak.points.shape == (0, 2) and weak.boxes.shape == (0, 4)
    for name in ("classes", "point_target", "scribble_target", "box_target", "mask_target", "expression_target"):
        assert getattr(weak, name).shape == (0,) and getattr(weak, name).dtype == torch.int64
    assert weak.is_crowd.dtype == weak.point_positive.dtype == torch.bool


def test_defaults_are_not_shared_between_images():
    assert WeakLabels((1, 1)).scribbles is not WeakLabels((1, 1)).scribbles
    assert WeakLabels((1, 1)).points is not WeakLabels((1, 1)).points


def test_replace_keeps_the_rest_and_the_original():
    weak = WeakLabels((4, 6), classes=torch.tensor([3]))
    other = weak.replace(image_size=(1, 2))
    assert (
        other.image_size == (1, 2) and weak.image_size == (4, 6) and other.classes.tolist() == [3] and len(other) == 1
    )


def test_every_tensor_moves():
    weak = WeakLabels(
        (2, 2),
        classes=torch.tensor([1]),
        scribbles=[torch.zeros(3, 2)],
        masks=torch.ones(1, 2, 2, dtype=torch.bool),
        expressions=["a"],
    ).to(torch.device("meta"))
    assert weak.classes.is_meta and weak.points.is_meta and weak.scribbles[0].is_meta and weak.masks.is_meta
    assert weak.image_size == (2, 2) and weak.expressions == ["a"] and weak.tags is None


def test_kinds_are_the_words_of_the_configuration():
    assert [kind.value for kind in LabelKind] == ["points", "scribbles", "boxes", "tags", "masks", "expressions"]
